"""What programs say and know of shared memory, through the host functions, over the real engine core."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from pie_runner.testing import CallError
from pie_wire.messages.kvstore import Snapshot
from pie_wire.messages.runner import Kill
from runner_programs import output_of, spec
from runner_world import PAGE, World


async def start(api, tokens=0):
    model = await api.call("model", "[static]model.load", "")
    context = await api.call("context", "[static]context.create", model)
    if tokens:
        await api.call("context", "[method]context.append", context, [1] * tokens)
        done = await api.call("context", "[method]context.flush", context)
        await api.wait("futures.done", done)
    return model, context


def squeezed(files) -> World:
    """A world whose pool has 16 pages."""
    world = World(files)
    world.add_engine(pages=16)
    world.run(lambda: world.runner.engines.names() == ["tiny"] and world.runner.uplink.connected)
    return world


async def standing(api, text):
    model, context = await start(api, 40)
    values = [await api.call("scheduling", name, context) for name in ("rent", "balance")]
    latency = await api.call("scheduling", "latency", model)
    pressure = await api.call("scheduling", "current-pressure", model)
    return json.dumps([*values, latency, *pressure])


def test_standing_of_a_context(world):
    rent, balance, latency, level, demand, price = json.loads(world.outcome(standing).text)

    assert (rent, balance) == (0.0, 256.0 - 3)
    assert latency == pytest.approx(0.01)
    assert (level, demand, price) == ("low", 0.0, 0.0)


async def until_pressed(api, text):
    model, _ = await start(api)
    low = await api.call("scheduling", "when-pressure", model, "low", False)
    at_once = low.ready
    high = await api.call("scheduling", "when-pressure", model, "medium", True)
    before = high.ready
    await api.wait("futures.done", high)
    now = await api.call("scheduling", "current-pressure", model)
    eased = await api.call("scheduling", "when-pressure", model, "low", False)
    await api.wait("futures.done", eased)
    return json.dumps([at_once, before, now.level, now.demand >= 0.8])


async def greedy(api, text):
    _, context = await start(api, 15 * PAGE)
    done = await api.call("clocks", "sleep", 10**9)
    await api.wait("futures.done", done)
    api.drop(context)
    await start(api, 1)
    return "null"


def test_a_program_waits_for_pressure_to_come_and_go(model_files):
    world = squeezed(model_files)
    world.start(until_pressed, pid="waits")
    world.run(0.2)
    assert world.outcome(greedy, pid="fills").kind == "return"
    world.run(lambda: world.ended("waits"))

    assert json.loads(world.log("waits")[-1].text) == [True, False, "medium", True]


async def suspending(api, text):
    _, context = await start(api, 40)
    done = await api.call("scheduling", "suspend", context)
    await api.wait("futures.done", done)
    gone = await api.call("scheduling", "receipts", context)
    flush = await api.call("context", "[method]context.flush", context)
    await api.wait("futures.done", flush)
    await output_of(api, context, tokens=[2])
    back = await api.call("scheduling", "receipts", context)
    none = await api.call("scheduling", "receipts", context)
    return json.dumps([[r.restored for r in gone], gone[0].reason, [r.restored for r in back], none])


def test_a_suspended_context_gives_receipts_and_comes_back(world):
    assert json.loads(world.outcome(suspending).text) == [[False], "suspend", [True], []]


async def idle_and_bids(api, text):
    _, poor = await start(api, 4 * PAGE)
    _, idle = await start(api, 4 * PAGE)
    _, rich = await start(api, 4 * PAGE)
    await api.call("scheduling", "bid", poor, 0.5)
    await api.call("scheduling", "bid", rich, 5.0)
    await api.call("scheduling", "idle", idle, True)
    found = []
    for _ in range(3):
        await start(api, 3 * PAGE + PAGE // 2)
        for name, context in (("poor", poor), ("idle", idle), ("rich", rich)):
            found += [name for r in await api.call("scheduling", "receipts", context) if not r.restored]
    return json.dumps(found)


def test_idle_contexts_give_way_first_and_then_the_lowest_bid(model_files):
    found = json.loads(squeezed(model_files).outcome(distinct(idle_and_bids)).text)

    assert found[:2] == ["idle", "poor"]


def distinct(main):
    """The program with tokens that no two of its contexts share."""

    async def program(api, text):
        count = 0

        async def call(interface, function, *arguments):
            nonlocal count
            if function == "[method]context.append":
                count += 1
                arguments = (arguments[0], [count, *arguments[1][1:]])
            return await api.call(interface, function, *arguments)

        return await main(SimpleNamespace(call=call, wait=api.wait, drop=api.drop), text)

    return program


async def paused_run(api, text):
    _, context = await start(api, 3)
    run = await api.call("generation", "[static]run.open", context, spec(max_tokens=400, window=8))
    await api.wait("generation.run", run, "next")
    await api.call("scheduling", "idle", context, True)
    for _ in range(8):
        await api.call("generation", "[method]run.next", run)
    sleep = await api.call("clocks", "sleep", 10**9)
    await api.wait("futures.done", sleep)
    while await api.call("generation", "[method]run.next", run) is not None:
        pass
    await api.call("scheduling", "idle", context, False)
    await api.wait("generation.run", run, "next")
    return "null"


def test_an_idle_scope_pauses_the_run_and_leaving_it_goes_on(world):
    assert world.outcome(paused_run).kind == "return"


async def prefetching(api, text):
    model, _ = await start(api)
    found = [await api.call("context", "[static]context.prefetch", model, name) for name in ("long", "none")]
    sleep = await api.call("clocks", "sleep", 10**9)
    await api.wait("futures.done", sleep)
    return json.dumps(found)


def test_a_prefetched_snapshot_is_found_when_opened(world):
    world.snapshots["local", "long"] = Snapshot("long", "tiny", [7] * 50)

    assert json.loads(world.outcome(prefetching).text) == [True, False]

    assert world.engine.core.pool_stats().cached == 3


async def listing(api, text):
    model, context = await start(api, 1)
    found = await api.call("adapters", "available", model)
    await api.call("context", "[method]context.set-adapters", context, [SimpleNamespace(adapter="style", weight=0.5)])
    done = await api.call("context", "[method]context.flush", context)
    await api.wait("futures.done", done)
    codes = []
    for use in (SimpleNamespace(adapter="nobody", weight=1.0), SimpleNamespace(adapter="style", weight=float("nan"))):
        try:
            await api.call("context", "[method]context.set-adapters", context, [use])
            done = await api.call("context", "[method]context.flush", context)
            await api.wait("futures.done", done)
            codes.append("ok")
        except CallError as exc:
            codes.append(exc.code)
    return json.dumps([[a.name, a.rank, a.current] for a in found] + codes)


def test_adapters_are_listed_and_used(world):
    world.engine.load_adapter("style")

    assert json.loads(world.outcome(listing).text) == [["style", 1, True], "not_found", "bad_request"]


async def parked(api, text):
    """Parks in the call that the input names, with pages held."""
    model, context = await start(api, 40)
    sleep = await api.call("clocks", "sleep", 10**8)
    await api.wait("futures.done", sleep)
    match json.loads(text):
        case "when-pressure":
            waitable = await api.call("scheduling", "when-pressure", model, "high", True)
        case "suspend":
            waitable = await api.call("scheduling", "suspend", context)
        case "drop-tokens":
            await api.call("context", "[method]context.append", context, [5] * 40)
            waitable = await api.call("context", "[method]context.drop-tokens", context, 0, 20)
        case "commit":
            await api.call("context", "[method]context.append", context, [5] * 40)
            waitable = await api.call("context", "[method]context.commit", context, 4)
        case "pin":
            await api.call("context", "[method]context.append", context, [5] * 40)
            waitable = await api.call("context", "[method]context.pin", context, "mine", 10**9)
        case "latency" | "available" as word:
            interface = "adapters" if word == "available" else "scheduling"
            await api.call(interface, word, model)
            return "null"
        case word:
            await api.call("scheduling", word, context)
            return "null"
    await api.wait("futures.done", waitable)
    return "null"


CALLS = ["when-pressure", "suspend", "drop-tokens", "commit", "pin", "rent", "balance", "latency", "available"]
"""The last one is answered whatever the engine does."""


@pytest.mark.parametrize("call", CALLS[:-1])
def test_a_kill_frees_everything_in_every_wait(world, call):
    world.start(parked, text=json.dumps(call))
    world.run(lambda: world.engine.contexts == 1 and world.engine.pages_owned == 3)
    world.engine.paused = True
    world.run(0.3)
    assert not world.ended()

    began = world.wires.now
    world.push(Kill("p1", "enough"))
    world.run(0.05)
    world.engine.paused = False
    world.run(lambda: world.engine.pages_owned == 0 and world.engine.contexts == 0)

    assert world.log()[-1].error.code == "terminated"
    assert world.wires.now - began < 0.2


@pytest.mark.parametrize("call", CALLS)
def test_an_engines_death_answers_every_wait(world, call):
    world.start(parked, text=json.dumps(call))
    world.run(lambda: world.engine.contexts == 1 and world.engine.pages_owned == 3)
    world.wires.cut.add("engine")
    world.run(0.3)

    world.wires.kill("engine")
    world.run(world.ended, limit=1.0)

    assert world.log()[-1].error.cause == "engine_lost"


async def host_calls(api, text):
    model, context = await start(api, 2 * PAGE)
    other = SimpleNamespace(adapter="style", weight=1.0)
    heavy = SimpleNamespace(adapter="style", weight=1e9)
    bad = {
        "pin-none": ("context", "[method]context.pin", context, "p", 0),
        "pin-long": ("context", "[method]context.pin", context, "p", 10**18),
        "pin-name": ("context", "[method]context.pin", context, "", 10**9),
        "unpin-name": ("context", "[static]context.unpin", model, "\n"),
        "prefetch-name": ("context", "[static]context.prefetch", model, "x" * 500),
        "adapters-many": ("context", "[method]context.set-adapters", context, [other] * 9),
        "adapters-heavy": ("context", "[method]context.set-adapters", context, [heavy]),
        "reserve": ("context", "[method]context.reserve", context, 0),
        "release": ("context", "[method]context.release", context, 3),
        "commit": ("context", "[method]context.commit", context, 3),
        "drop": ("context", "[method]context.drop-tokens", context, 5, 4),
        "bid": ("scheduling", "bid", context, float("inf")),
    }
    codes = {}
    for name, call in bad.items():
        try:
            await api.call(*call)
            codes[name] = "ok"
        except CallError as exc:
            codes[name] = exc.code
    await api.call("context", "[method]context.reserve", context, 2)
    await api.wait("futures.done", await api.call("context", "[method]context.commit", context, 1))
    counts = await api.call("context", "[method]context.pages", context)
    again = await api.call("context", "[method]context.model", context)
    await api.wait("futures.done", await api.call("context", "[method]context.pin", context, "p", 10**9))
    await api.call("context", "[static]context.unpin", again, "p")
    return json.dumps([codes, list(counts), await api.call("model", "[method]model.name", again)])


def test_host_functions_of_pages(world):
    codes, counts, name = json.loads(world.outcome(host_calls).text)

    assert codes == dict.fromkeys(codes, "bad_request")
    assert (counts, name) == ([1, 1, 2], "tiny")
    world.run(0.2)
    assert world.engine.pages_owned == 0
