"""Start, kill, deliver, artifacts, the gateway's and kvstore's absence."""

from __future__ import annotations

import hashlib
import json

import pytest
from pie_runner.config import RunnerConfig
from pie_wire.errors import BadRequest, InternalError, Overloaded
from pie_wire.messages.common import ProgramRef
from pie_wire.messages.link import Identity
from pie_wire.messages.runner import Deliver, Kill, Start
from runner_programs import forever, generating
from runner_world import World


async def quick(api, text):
    return json.dumps({"input": json.loads(text)})


async def fails(api, text):
    raise ValueError("no luck")


async def not_json(api, text):
    return "plain words"


async def deep(api, text):
    return "[" * 100_000 + "]" * 100_000


async def huge(api, text):
    return json.dumps("x" * (2 << 20))


async def echo(api, text):
    for _ in range(2):
        pending = await api.call("session", "receive")
        message = await api.wait("session.pending-message", pending)
        if message.tag == "text":
            await api.call("session", "send", message.value, "wait")
        else:
            await api.call("session", "send-bytes", message.value, "wait")
    return "null"


async def chatty(api, text):
    await api.wait("futures.done", await api.call("clocks", "sleep", 50_000_000))
    for i in range(json.loads(text)["count"]):
        await api.call("log", "stdout", f"line {i}\n")
    return "null"


def test_returns_and_failures_are_the_terminal_event(world):
    assert world.outcome(quick, text='{"a": 1}').text == '{"input": {"a": 1}}'
    assert world.outcome(fails, pid="p2").error.code == "trapped"
    assert world.outcome(not_json, pid="p3").error.code == "program_error"
    assert world.outcome(huge, pid="p4").error.code == "too_large"
    assert world.outcome(deep, pid="p5").error.code == "program_error"


def test_a_start_repeated_changes_nothing(world):
    ref = world.install("quick", quick)
    start = Start("p1", ref, "{}")
    answers = world.send_start(start) + world.send_start(start)
    world.run(world.ended)
    world.run(0.2)
    length = len(world.log())
    answers += world.send_start(start)
    world.run(0.5)

    assert all(answer.error is None for answer in answers)
    assert len(world.log()) == length
    assert not world.runner.processes


def test_artifacts_come_in_chunks_once_and_are_checked(world):
    world.chunk = 7
    world.start(quick, pid="p1", name="same")
    world.start(quick, pid="p2", name="same")
    world.run(lambda: world.ended("p1") and world.ended("p2"))
    requests = world.kvstore.artifact_requests
    world.outcome(quick, pid="p3", name="same")

    assert world.kvstore.artifact_requests == requests
    digest = hashlib.sha256(b"other").hexdigest()
    world.artifacts[digest] = b"not it"
    world.send_start(Start("p4", ProgramRef("same", "0.1.0", "python", digest), "{}"))
    world.run(lambda: world.ended("p4"))
    assert [event.error.code for event in world.log("p4")] == ["hash_mismatch"]


def test_without_kvstore_only_cached_programs_start(world):
    world.outcome(quick, pid="p1", name="cached")
    world.wires.kill("kvstore")

    assert world.outcome(quick, pid="p2", name="cached").kind == "return"
    lost = world.outcome(quick, pid="p3", name="new").error
    assert (lost.code, lost.retryable) == ("store_unavailable", True)


def test_a_full_runner_refuses(world):
    for i in range(world.runner.capacity):
        world.start(forever, pid=f"p{i}")
    world.run(lambda: world.runner.live == world.runner.capacity)
    answers = world.start(forever, pid="one-more")
    world.run(lambda: bool(answers))

    assert answers[0].error.code == "overloaded"
    assert "one-more" not in world.runner.processes


def test_a_runner_without_room_for_another_program_refuses(world):
    def check() -> None:
        raise Overloaded("no mappings")

    world.restart_runner(check_room=check)
    answers = world.start(forever)
    world.run(lambda: bool(answers))

    assert answers[0].error.code == "overloaded"
    assert (world.runner.processes, world.runner.live) == ({}, 0)


def test_a_dedicated_runner_says_so_and_refuses_others(world):
    world.restart_runner(dedicated=frozenset({"globex", "acme"}))
    mine = world.start(forever, pid="mine", tenant="acme")
    foreign = world.start(forever, pid="foreign", tenant="other")
    world.run(lambda: bool(mine and foreign))

    assert world.gateway.announced[-1].tenants == ["acme", "globex"]
    assert mine[0].error is None
    assert foreign[0].error.code == "unavailable"
    assert "dedicated to acme, globex" in foreign[0].error.message
    assert set(world.runner.processes) == {"mine"}


def test_whom_a_runner_is_for_is_a_list_without_gaps():
    assert RunnerConfig().dedicated == frozenset()
    assert RunnerConfig(dedicated_to="acme, globex").dedicated == {"acme", "globex"}
    for gap in (",", " ", "acme,,globex", "acme,"):
        with pytest.raises(BadRequest, match="dedicated_to"):
            _ = RunnerConfig(dedicated_to=gap).dedicated


def test_messages_reach_the_program_and_its_answers_come_back(world):
    world.start(echo)
    world.run(lambda: world.log() != [])
    world.deliver(Deliver("p1", text="hi"))
    world.deliver(Deliver("p1", binary=True), b"\x00\xff")
    world.run(world.ended)

    assert [(e.kind, e.text or e.data) for e in world.log()[1:3]] == [("message", "hi"), ("binary", b"\x00\xff")]
    answers = world.deliver(Deliver("p1", text="late"))
    world.run(lambda: bool(answers))
    assert answers[0].error.code == "not_found"


async def flooding(api, text):
    while True:
        await api.call("session", "send", "x" * 500_000, "wait")


async def receiving(api, text):
    await api.wait("session.pending-message", await api.call("session", "receive"))


async def encoding(api, text):
    model = await api.call("model", "[static]model.load", "")
    tokenizer = await api.call("model", "[method]model.tokenizer", model)
    await api.call("model", "[method]tokenizer.encode", tokenizer, "word " * 10_000)


async def saving(api, text):
    model = await api.call("model", "[static]model.load", "")
    context = await api.call("context", "[static]context.create", model)
    await api.wait("futures.done", await api.call("clocks", "sleep", 50_000_000))
    await api.call("context", "[method]context.save", context, "name")
    return "null"


@pytest.mark.parametrize("main", [forever, generating, flooding, receiving, encoding, saving])
def test_a_kill_in_any_state_frees_everything(world: World, main):
    world.start(main)
    world.gateway.consumes = False
    world.run(lambda: "p1" in world.runner.processes and world.runner.processes["p1"].state == "running")
    world.hold_offloads = True
    if main is saving:
        world.wires.kill("kvstore")
    world.run(0.3)
    assert not world.ended()
    world.push(Kill("p1", "by the test"))
    world.push(Kill("p1", "again"))
    world.run(world.ended)
    world.hold_offloads = False
    world.run(0.5)

    assert world.log()[-1].error.code == "terminated"
    assert sum(event.kind == "error" for event in world.log()) == 1
    assert not world.runner.processes
    assert len(world.runner.timers) == 0
    assert world.engine.contexts == 0
    assert world.engine.pages_owned == 0
    assert world.runner.live == 0
    assert [link.homes for link in world.runner.engines._links.values()] == [0]


def test_a_kill_while_the_program_is_fetched(world):
    world.wires.kill("kvstore")
    world.start(quick)
    world.run(lambda: "p1" in world.runner.processes)
    world.push(Kill("p1", "by the test"))
    world.run(world.ended)
    world.run(10.0)

    assert [event.error.code for event in world.log()] == ["terminated"]


def test_output_beyond_the_limit_parks_the_program_until_it_is_consumed(world):
    world.gateway.consumes = False
    world.start(flooding)
    world.run(1.0)
    parked = len(world.log())
    world.run(1.0)
    assert len(world.log()) == parked == 1 + 17  # started, and 8 MiB in pieces of half a million

    world.gateway.credit("p1", consumed=10)
    world.run(1.0)
    assert len(world.log()) == parked + 9


def test_a_launch_may_ask_for_dropping_instead(world):
    async def main(api, text):
        for _ in range(40):
            await api.call("session", "send", "x" * 500_000, "wait")
        return "null"

    world.gateway.consumes = False
    world.start(main, on_full="drop")
    world.run(world.ended)

    assert [event.kind for event in world.log()[-2:]] == ["gap", "return"]
    assert world.log()[-2].text == str(40 - 17)


def test_events_survive_a_gateways_restart(world):
    async def main(api, text):
        for i in range(30):
            await api.call("session", "send", str(i), "wait")
            await api.wait("futures.done", await api.call("clocks", "sleep", 20_000_000))
        return "null"

    world.start(main)
    world.run(0.2)
    world.gateway.stores = False
    world.run(0.2)
    world.restart_gateway()
    world.run(world.ended, limit=20.0)

    assert [event.text for event in world.log() if event.kind == "message"] == [str(i) for i in range(30)]
    assert [event.seq for event in world.log()] == list(range(1, 33))
    announced = world.gateway.announced[0].processes
    assert [(p.pid, p.ended) for p in announced] == [("p1", False)]


def test_programs_go_on_while_there_is_no_gateway(world):
    world.start(chatty, text='{"count": 50}')
    world.run(lambda: "p1" in world.runner.processes)
    world.wires.kill("gateway")
    world.run(2.0)
    assert world.runner.processes["p1"].state == "ended"
    world.restart_gateway()
    world.run(world.ended)

    assert len(world.log()) == 52
    world.run(0.2)
    assert not world.runner.processes


def test_processes_the_gateway_does_not_know_are_ended(world):
    world.start(forever)
    world.run(lambda: world.log() != [])
    del world.logs["p1"]
    world.restart_gateway()
    world.run(lambda: not world.runner.processes)

    assert "p1" not in world.logs


def test_events_of_many_programs_share_messages(world):
    for i in range(8):
        world.start(chatty, pid=f"p{i}", text='{"count": 100}')
    world.run(lambda: all(world.ended(f"p{i}") for i in range(8)))

    assert world.gateway.pushes < 40
    assert world.gateway.loads


def test_stopping_ends_everything_with_an_event(world):
    world.start(forever)
    world.run(lambda: world.log() != [])
    world.runner.stop()
    world.run(lambda: world.runner.is_settled)

    assert world.log()[-1].error.code == "terminated"
    answers = world.start(quick, pid="p2")
    world.run(lambda: bool(answers))
    assert answers[0].error.code == "overloaded"


async def ticking(api, text):
    for i in range(json.loads(text)["count"]):
        await api.wait("futures.done", await api.call("clocks", "sleep", 500_000_000))
        await api.call("session", "send", str(i), "wait")
    return "null"


def test_a_gateway_that_was_silent_for_long_is_found_again(world):
    world.start(ticking, text='{"count": 100}')
    world.run(2.0)
    world.wires.cut.add("gateway")
    world.run(20.0)
    assert world.runner.hub.peer("gateway") is None
    assert world.runner.processes["p1"].state == "running"

    world.wires.cut.clear()
    world.run(world.ended)
    assert [event.text for event in world.log() if event.kind == "message"] == [str(i) for i in range(100)]


def test_an_announcement_that_is_refused_is_made_again_after_a_pause(world):
    world.start(ticking, text='{"count": 8}')
    world.run(1.0)
    world.wires.kill("gateway")
    world.restart_gateway()
    world.gateway.refuses = InternalError("not now")
    world.run(3.0)
    assert 2 <= len(world.gateway.announced) <= 5
    world.gateway.refuses = None
    world.run(world.ended)


def test_a_runner_whose_name_was_taken_over_knows_it(world):
    assert not world.runner.is_superseded
    identity = Identity("runner", "runner", world.runner.hub.identity.epoch + 5, "successor")
    rival = world.wires.hub("runner", "rival")
    rival.identity = identity
    world.wires.connect("rival", "gateway", "gateway", "runners")
    rival.dial("gateway")
    world.run(1.0)

    assert world.runner.is_superseded
