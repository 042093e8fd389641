"""A program's messages: queues and broadcasts over the real kvstore core, on a Redis that can go away."""

from __future__ import annotations

import json
from collections import OrderedDict
from typing import Any

import pytest
from message_store import JOBS, Store
from pie_kvstore.topics import _Waiter
from pie_runner.testing import CallError
from pie_wire.errors import PeerLost
from pie_wire.membership import KVSTORE
from pie_wire.messages.kvstore import Broadcast, PushMessage
from pie_wire.messages.runner import Kill
from runner_world import World


async def pulled(api: Any) -> Any:
    pending = await api.call("messaging", "pull", "jobs")
    delivery = await api.wait("messaging.pending-pull", pending)
    api.drop(pending)
    return delivery


async def pulls_two(api: Any, text: str) -> str:
    return json.dumps([(await pulled(api)).text for _ in range(2)])


async def pulls_and_waits(api: Any, text: str) -> str:
    await pulled(api)
    await api.call("session", "send", "got it", "wait")
    done = await api.call("clocks", "sleep", 10**18)
    await api.wait("futures.done", done)
    return "null"


async def pulls_and_fails(api: Any, text: str) -> str:
    await pulled(api)
    raise ValueError("poison")


async def pushes(api: Any, text: str) -> str:
    for message in json.loads(text):
        done = await api.call("messaging", "push", "jobs", message)
        await api.wait("futures.done", done)
    return "null"


async def waits_for_one(api: Any, text: str) -> str:
    return json.dumps((await pulled(api)).text)


def test_messages_in_order_and_acknowledged_by_returning(bare_world: World, store: Store):
    assert bare_world.outcome(pushes, pid="p0", text='["a", "b", "c"]').kind == "return"

    got = bare_world.outcome(pulls_two)
    assert got.text == '["a", "b"]', got
    bare_world.run(0.2)
    assert store.counts == (1, 0, 0)


def test_one_that_fails_leaves_its_message_to_others(bare_world: World, store: Store):
    store.push("poison")
    for number in range(5):
        bare_world.outcome(pulls_and_fails, pid=f"p{number}")
        bare_world.run(0.2)

    assert store.counts == (0, 0, 1)
    assert len(bare_world.runner.post._mail) == 0


@pytest.mark.parametrize("when", ["waiting", "working"])
def test_kill_while_pulling(bare_world: World, store: Store, when: str):
    world = bare_world
    if when == "working":
        store.push("a")
    world.start(pulls_and_waits)
    world.run(lambda: len(world.log()) >= (2 if when == "working" else 1))
    world.push(Kill("p1", "enough"))
    world.run(world.ended)
    world.run(0.3)
    if when == "waiting":
        store.push("a")
        world.run(0.2)

    assert store.counts == (1, 0, 0)
    assert store.topics._waiting == {}
    assert world.runner.post._settling.taken == 0


def test_a_dropped_pull_puts_its_message_back(bare_world: World, store: Store):
    world = bare_world

    async def drops(api: Any, text: str) -> str:
        pending = await api.call("messaging", "pull", "jobs")
        await api.call("futures", "wait-any", [pending.id])
        api.drop(pending)
        return json.dumps((await pulled(api)).redeliveries)

    store.push("a")
    assert world.outcome(drops).text == "0"
    world.run(0.2)
    assert store.counts == (0, 0, 0)


@pytest.mark.parametrize("ended", [False, True])
def test_a_registration_answered_twice_keeps_no_message(bare_world: World, store: Store, ended: bool):
    world = bare_world
    store.push("a")
    world.start(waits_for_one if ended else pulls_and_waits)
    world.run(lambda: len(world.log()) >= 2)
    world.run(0.3)
    (peer,) = [peer for peer in world.kvstore.hub.peers() if peer.kind == "runner"]

    again = store.topics._waiting.setdefault(JOBS, OrderedDict())
    late = _Waiter(peer, 1, "p1", 1)
    again[late] = None
    store.topics._wishes.setdefault("p1", {})[late] = JOBS
    store.topics.shares.take("local")
    if not ended:
        store.queues.acknowledge(list(store.queues.held_by("p1")))
    store.push("b")
    world.run(0.5)

    assert store.counts == (1, 0, 0)


def test_acknowledge(bare_world: World, store: Store):
    world = bare_world

    async def acknowledges(api: Any, text: str) -> str:
        delivery = await pulled(api)
        await api.call("messaging", "acknowledge", delivery.message)
        raise ValueError("after all was done")

    async def twice(api: Any, text: str) -> str:
        delivery = await pulled(api)
        await api.call("messaging", "acknowledge", delivery.message)
        await api.call("messaging", "acknowledge", delivery.message)
        return "null"

    store.push("a", "b")
    world.outcome(acknowledges)
    world.run(0.2)
    assert store.counts == (1, 0, 0)
    error = world.outcome(twice, pid="p2").error
    assert error is not None
    assert error.cause == "not_found"


def test_kvstore_away_for_a_while(bare_world: World, store: Store):
    """The link is lost with a pull waiting, one message taken and one acknowledgement under way."""
    world = bare_world
    store.push("a")
    world.start(pulls_two)
    world.run(lambda: store.counts == (0, 1, 0))
    for peer in world.kvstore.hub.peers():
        world.kvstore.hub.lost(peer, PeerLost("gone"))
    peer = world.runner.hub.peer(KVSTORE)
    if peer is not None:
        world.runner.hub.lost(peer, PeerLost("gone"))
    world.run(1.0)
    store.push("b")
    world.run(world.ended)
    world.run(0.5)

    assert world.log()[-1].text == '["a", "b"]'
    assert store.counts == (0, 0, 0)


def test_what_one_tenant_has_to_settle_leaves_room_for_others(
    bare_world: World, store: Store, monkeypatch: pytest.MonkeyPatch
):
    world = bare_world
    monkeypatch.setattr("pie_runner.messaging.post.MAX_SETTLING", 4)
    world.restart_runner()

    async def drops(api: Any, text: str) -> str:
        for _ in range(8):
            api.drop(await api.call("messaging", "pull", "jobs"))
        return "null"

    world.run(lambda: world.runner.uplink.connected)
    world.wires.kill("kvstore")
    for pid, tenant in (("p1", "local"), ("p2", "acme")):
        world.runner.artifacts.cache.write(
            world.install(f"prog-{pid}", drops).sha256, f"program prog-{pid}".encode() * 20
        )
        world.start(drops, pid=pid, tenant=tenant)
        world.run(lambda pid=pid: world.ended(pid))

    settling = world.runner.post._settling
    assert (settling.of("local"), settling.of("acme")) == (2, 1)


def test_redis_away_beyond_the_deadline_and_within_it(bare_world: World, store: Store):
    world = bare_world
    store.server.connected = False
    world.start(pushes, pid="p1", text='["a"]')
    world.start(waits_for_one, pid="p2")
    world.run(lambda: world.ended("p1"), limit=60.0)
    error = world.log("p1")[-1].error
    assert error is not None
    assert error.cause == "store_unavailable"

    world.start(pushes, pid="p3", text='["b"]')
    world.run(5.0)
    store.server.connected = True
    world.run(lambda: world.ended("p3") and world.ended("p2"))

    assert world.log("p3")[-1].kind == "return"
    assert world.log("p2")[-1].text == '"b"'


def test_broadcasts(bare_world: World, store: Store):
    world = bare_world

    async def listens(api: Any, text: str) -> str:
        subscription = await api.call("messaging", "subscribe", "news")
        await api.call("session", "send", "listening", "wait")
        heard: list[str] = []
        while len(heard) < 2:
            given = await api.call("messaging", "[method]subscription.next", subscription)
            if given is None:
                await api.call("futures", "wait-any", [subscription.id])
            else:
                heard.append(given)
        return json.dumps(heard)

    async def speaks(api: Any, text: str) -> str:
        for message in ("one", "two"):
            done = await api.call("messaging", "broadcast", "news", message)
            await api.wait("futures.done", done)
        return "null"

    world.start(listens, pid="p1")
    world.start(listens, pid="p2")
    world.run(lambda: len(world.log("p1")) == len(world.log("p2")) == 2)
    world.start(speaks, pid="p3")
    world.run(lambda: world.ended("p1") and world.ended("p2"))
    world.run(0.2)

    assert world.log("p1")[-1].text == world.log("p2")[-1].text == '["one", "two"]'
    assert store.topics._subscribed == {}
    assert world.runner.post._listening == {}


def test_a_subscriber_that_does_not_read_loses_and_is_told(bare_world: World, store: Store):
    world = bare_world

    async def sleeps(api: Any, text: str) -> str:
        subscription = await api.call("messaging", "subscribe", "news")
        done = await api.call("messaging", "broadcast", "news", "x")
        await api.wait("futures.done", done)
        for _ in range(300):
            done = await api.call("messaging", "broadcast", "news", "y" * 10_000)
            await api.wait("futures.done", done)
        count = 0
        while await api.call("messaging", "[method]subscription.next", subscription) is not None:
            count += 1
        return json.dumps([count, await api.call("messaging", "[method]subscription.lost", subscription)])

    count, lost = json.loads(world.outcome(sleeps).text)
    assert count + lost == 301
    assert 100 <= count <= 105


@pytest.mark.parametrize(("function", "count"), [("pull", 64), ("subscribe", 64)])
def test_what_holds_memory_is_bounded(bare_world: World, store: Store, function: str, count: int):
    async def floods(api: Any, text: str) -> str:
        made: list[Any] = []
        try:
            while True:
                made.append(await api.call("messaging", function, f"t{len(made)}"))
        except CallError as exc:
            for one in made[:2]:
                api.drop(one)
            await api.call("messaging", function, "again")
            return json.dumps([len(made), exc.code])

    assert json.loads(bare_world.outcome(floods).text) == [count, "overloaded"]
    bare_world.run(0.5)
    assert (store.topics._waiting, store.topics._subscribed) == ({}, {})
    assert not bare_world.runner.post._entering


def test_kill_while_subscribing_leaves_nothing(bare_world: World, store: Store):
    world = bare_world

    async def listens(api: Any, text: str) -> str:
        await api.call("messaging", "subscribe", "news")
        return "null"

    world.wires.cut.add("kvstore")
    world.start(listens)
    world.run(lambda: bool(world.log()))
    world.push(Kill("p1", "enough"))
    world.run(world.ended)
    world.wires.cut.clear()
    world.run(10.0)

    assert store.topics._subscribed == {}
    assert not world.runner.post._entering


def test_a_subscription_for_which_the_program_has_no_waitable_leaves_nothing(
    bare_world: World, store: Store, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("pie_runner.waitables.MAX_WAITABLES", 4)
    world = bare_world

    async def listens(api: Any, text: str) -> str:
        for _ in range(4):
            await api.call("clocks", "sleep", 10**18)
        try:
            await api.call("messaging", "subscribe", "news")
        except CallError as exc:
            return json.dumps(exc.code)
        return "null"

    assert world.outcome(listens).text == '"too_large"'
    world.run(1.0)
    assert store.topics._subscribed == {}
    assert world.runner.post._subscriptions.of("local") == 0


def test_the_end_of_one_subscriber_is_not_that_of_another(bare_world: World, store: Store):
    world = bare_world

    async def two(api: Any, text: str) -> str:
        first = await api.call("messaging", "subscribe", "news")
        second = await api.call("messaging", "subscribe", "news")
        api.drop(first)
        await api.wait("futures.done", await api.call("messaging", "broadcast", "news", "hello"))
        await api.call("futures", "wait-any", [second.id])
        return json.dumps(await api.call("messaging", "[method]subscription.next", second))

    assert world.outcome(two).text == '"hello"'


def test_subscriptions_outlive_the_link(bare_world: World, store: Store):
    world = bare_world

    async def listens(api: Any, text: str) -> str:
        subscription = await api.call("messaging", "subscribe", "news")
        await api.call("session", "send", "listening", "wait")
        await api.call("futures", "wait-any", [subscription.id])
        return json.dumps(await api.call("messaging", "[method]subscription.next", subscription))

    async def speaks(api: Any, text: str) -> str:
        await api.wait("futures.done", await api.call("messaging", "broadcast", "news", "hello"))
        return "null"

    world.start(listens)
    world.run(lambda: len(world.log()) == 2)
    for hub in (world.kvstore.hub, world.runner.hub):
        for peer in hub.peers():
            if {peer.kind, hub.identity.kind} == {"runner", "kvstore"}:
                hub.lost(peer, PeerLost("gone"))
    world.run(2.0)
    world.start(speaks, pid="p2")
    world.run(world.ended)

    assert world.log()[-1].text == '"hello"'


@pytest.mark.parametrize(
    ("function", "arguments", "code"),
    [
        ("push", ("", "a"), "bad_request"),
        ("push", ("a\nb", "a"), "bad_request"),
        ("push", ("jobs", "a" * 300_000), "too_large"),
        ("pull", ("x" * 201,), "bad_request"),
        ("broadcast", ("jobs", "a" * 300_000), "too_large"),
        ("subscribe", ("",), "bad_request"),
        ("acknowledge", (17,), "not_found"),
    ],
)
def test_bad_input(bare_world: World, store: Store, function: str, arguments: tuple[Any, ...], code: str):
    async def calls(api: Any, text: str) -> str:
        await api.call("messaging", function, *arguments)
        return "null"

    error = bare_world.outcome(calls).error
    assert error is not None
    assert error.cause == code


def test_pushes_without_waiting_are_bounded(bare_world: World, store: Store):
    async def floods(api: Any, text: str) -> str:
        while True:
            await api.call("messaging", "push", "jobs", "x")

    error = bare_world.outcome(floods).error
    assert error is not None
    assert error.cause == "overloaded"
    bare_world.run(0.5)
    assert store.counts[0] in (100, 256)


@pytest.mark.parametrize("function", ["push", "broadcast"])
def test_messages_under_way_of_one_tenant_leave_room_for_others(
    bare_world: World, store: Store, monkeypatch: pytest.MonkeyPatch, function: str
):
    world = bare_world
    monkeypatch.setattr("pie_runner.messaging.post.SENDING_BYTES", 40 * 2048)
    world.restart_runner()

    async def floods(api: Any, text: str) -> str:
        sent = 0
        try:
            while True:
                await api.call("messaging", function, "jobs", "x" * 1024)
                sent += 1
        except CallError as exc:
            await api.call("session", "send", json.dumps([sent, exc.code, str(exc)]), "wait")
        return await pulls_and_waits(api, text)

    hold_store(world)
    for pid, tenant in (("p1", "local"), ("p2", "local"), ("p3", "acme")):
        world.start(floods, pid=pid, name="floods", tenant=tenant)
        world.run(lambda pid=pid: len(world.log(pid)) >= 2)
    told = [json.loads(world.log(pid)[-1].text) for pid in ("p1", "p2", "p3")]

    assert [(sent, code) for sent, code, _ in told] == [(20, "overloaded"), (0, "overloaded"), (10, "overloaded")]
    assert "tenant local" in told[1][2]
    for pid in ("p1", "p2", "p3"):
        world.push(Kill(pid, "enough"))
    world.run(60.0)
    assert world.runner.post._sending.taken == 0


def hold_store(world: World) -> None:
    """It takes messages and broadcasts, and says nothing."""
    for message in (PushMessage, Broadcast):
        world.kvstore.hub.on(message, lambda _: None)


def test_subscriptions_and_what_they_hold_are_shared_among_tenants(
    bare_world: World, store: Store, monkeypatch: pytest.MonkeyPatch
):
    world = bare_world
    monkeypatch.setattr("pie_runner.messaging.post.MAX_ALL_SUBSCRIPTIONS", 8)
    monkeypatch.setattr("pie_runner.messaging.post.HEARD_BYTES", 400)
    world.restart_runner()

    async def listens(api: Any, text: str) -> str:
        opened: list[int] = []
        try:
            while True:
                opened.append(await api.call("messaging", "subscribe", "news"))
        except CallError as exc:
            refused = [exc.code, str(exc)]
        for _ in range(30):
            await api.wait("futures.done", await api.call("messaging", "broadcast", "news", "x" * 10))
        lost = [await api.call("messaging", "[method]subscription.lost", one) for one in opened]
        await api.call("session", "send", json.dumps([len(opened), lost, *refused]), "wait")
        return await pulls_and_waits(api, text)

    for pid, tenant in (("p1", "local"), ("p2", "acme")):
        world.start(listens, pid=pid, name="listens", tenant=tenant)
        world.run(lambda pid=pid: len(world.log(pid)) >= 2)
    mine, theirs = (json.loads(world.log(pid)[1].text) for pid in ("p1", "p2"))

    assert (mine[0], mine[2], theirs[0]) == (4, "overloaded", 2)
    assert "tenant local" in mine[3]
    assert sum(mine[1]) == 4 * 30 - 20, "half of what all buffers hold"
    assert sum(theirs[1]) == 2 * 30 - 10
    for pid in ("p1", "p2"):
        world.push(Kill(pid, "enough"))
    world.run(0.5)
    post = world.runner.post
    assert (post._subscriptions.taken, post._heard_bytes.taken, store.topics.subscribed.taken) == (0, 0, 0)
