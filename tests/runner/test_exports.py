"""Contexts as bytes, and snapshots of contexts that are more than their tokens, over the real engine core."""

from __future__ import annotations

import base64
import json
from types import SimpleNamespace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pie_runner.cargo import MAX_BYTES, CargoHold
from pie_runner.exports import Collector, decode, pack, unpack
from pie_runner.testing import CallError
from pie_wire.errors import BadRequest, PieError, TooLarge
from pie_wire.messages.engine import MAX_EXPORT_HEADER, ExportHeader
from pie_wire.messages.kvstore import GetSnapshot
from pie_wire.messages.runner import Exported, Kill
from runner_programs import draw, pass_, spec

LONG = 60


async def make(api, tokens=LONG, first=7):
    model = await api.call("model", "[static]model.load", "")
    context = await api.call("context", "[static]context.create", model)
    await api.call("context", "[method]context.append", context, [first, *range(1, tokens)])
    return model, context


async def finished(api, done):
    await api.wait("futures.done", done)


async def exported(api, context):
    pending = await api.call("context", "[method]context.export", context)
    return (await api.wait("context.pending-export", pending)).decode()


async def following(api, context):
    """What the model says next."""
    request = pass_(draws=[draw([0])])
    output = await api.wait("forward.pending-output", await api.call("forward", "execute", context, request))
    return output.tokens[0][0]


async def impure(api):
    model, context = await make(api)
    await finished(api, await api.call("context", "[method]context.drop-tokens", context, 2, 40))
    return model, context


async def copies(api, text):
    model, context = await impure(api)
    data = await exported(api, context)
    copy = await api.call("context", "[static]context.import", model, data)
    codes = []
    for damaged in (data[:-8], "AAAA", "no base64!", data[:40] + "AAAA" + data[44:]):
        try:
            await api.call("context", "[static]context.import", model, damaged)
        except CallError as exc:
            codes.append(exc.code)
    same = await following(api, context) == await following(api, copy)
    try:
        await api.call("context", "[method]context.truncate", copy, 20)
    except CallError as exc:
        codes.append(exc.code)
    return json.dumps([list(copy.tokens) == list(context.tokens), same, codes])


def test_an_impure_context_is_copied_as_bytes(world):
    equal, same, codes = json.loads(world.outcome(copies).text)

    assert (equal, same) == (True, True)
    assert all(code in ("bad_request", "bad_field", "hash_mismatch") for code in codes)
    assert len(codes) == 5
    world.run(0.2)
    assert world.engine.pages_owned == 0


async def export_in_mid_run(api, text):
    model, context = await make(api, 10)
    run = await api.call("generation", "[static]run.open", context, spec(max_tokens=40))
    for _ in range(3):
        await api.wait("generation.run", run, "next")
    copy = await api.call("context", "[static]context.import", model, await exported(api, context))
    at = list(copy.tokens) == list(context.tokens)
    again = await api.call("generation", "[static]run.open", copy, spec(max_tokens=37))
    more = [[(await api.wait("generation.run", one, "next")).tokens[0] for _ in range(30)] for one in (run, again)]
    return json.dumps([at, more[0] == more[1]])


def test_an_export_acts_at_the_consumed_point_and_the_run_goes_on(world):
    assert json.loads(world.outcome(export_in_mid_run).text) == [True, True]


async def hoarding(api, text):
    _, context = await make(api)
    pendings = [await api.call("context", "[method]context.export", context) for _ in range(4)]
    try:
        await api.call("context", "[method]context.export", context)
    except CallError as exc:
        refused = str(exc)
    api.drop(pendings[0])
    await exported(api, context)
    return json.dumps(refused)


def test_exports_that_nobody_takes_are_bounded(world):
    assert "4 `exports`" in world.outcome(hoarding).text


async def saving(api, text):
    _, context = await impure(api)
    await api.call("context", "[method]context.save", context, "mine")
    return json.dumps(await following(api, context))


async def opening(api, text):
    model = await api.call("model", "[static]model.load", "")
    context = await api.call("context", f"[static]context.{json.loads(text)}", model, "mine")
    if context is None:
        return "null"
    dropped = [list(part) for part in context.layout.dropped]
    return json.dumps([len(context.tokens), dropped, await following(api, context)])


def test_an_impure_snapshot_is_opened_by_another_process_on_another_engine(world):
    expected = json.loads(world.outcome(saving, pid="saves").text)
    assert next(iter(world.archives))[1] == world.snapshots["local", "mine"].data
    world.wires.kill("engine")
    world.engines.clear()
    world.add_engine("engine2")
    world.run(lambda: world.runner.engines.names() == ["tiny"])
    world.run(0.5)

    opened = json.loads(world.outcome(opening, pid="opens", text='"open"').text)
    taken = json.loads(world.outcome(opening, pid="takes", text='"take"').text)
    gone = world.outcome(opening, pid="again", text='"take"').text

    assert opened == taken == [LONG, [[2, 40]], expected]
    assert gone == "null"


async def adapted(api, text):
    _, context = await make(api)
    await api.call("context", "[method]context.set-adapters", context, [SimpleNamespace(adapter="style", weight=0.5)])
    await api.call("context", "[method]context.append", context, [9, 9])
    await api.call("context", "[method]context.save", context, "mine")
    return json.dumps(await following(api, context))


def test_what_can_be_computed_again_is_saved_without_its_kv(world):
    world.engine.load_adapter("style")
    expected = json.loads(world.outcome(adapted, pid="saves").text)

    (data,) = world.archives.values()
    header = unpack(data).header
    opened = json.loads(world.outcome(opening, pid="opens", text='"open"').text)

    assert (header.kv, len(unpack(data).parts)) == (0, 1)
    assert header.adapters[0][1][0][0].startswith("style@")
    assert opened == [LONG + 2, [], expected]


async def adapted_from_the_start(api, text):
    model = await api.call("model", "[static]model.load", "")
    context = await api.call("context", "[static]context.create", model)
    await api.call("context", "[method]context.set-adapters", context, [SimpleNamespace(adapter="style", weight=0.5)])
    await api.call("context", "[method]context.append", context, list(range(7, 7 + LONG)))
    await api.call("context", "[method]context.save", context, "mine")
    return json.dumps(await following(api, context))


async def prefetching(api, text):
    model = await api.call("model", "[static]model.load", "")
    found = await api.call("context", "[static]context.prefetch", model, "mine")
    await api.wait("futures.done", await api.call("clocks", "sleep", 10**9))
    return json.dumps(found)


@pytest.mark.parametrize(("save", "computes"), [(adapted_from_the_start, True), (adapted, False), (saving, False)])
def test_what_is_computed_ahead_of_a_snapshot_that_is_more_than_tokens(world, save, computes):
    world.engine.load_adapter("style")
    expected = json.loads(world.outcome(save, pid="saves").text)
    world.wires.kill("engine")
    world.engines.clear()
    world.add_engine("engine2").load_adapter("style")
    world.run(lambda: world.runner.engines.names() == ["tiny"])
    world.run(0.5)

    assert world.outcome(prefetching, pid="before").text == "true"
    cached, computed = world.engine.core.pool_stats().cached, world.engine.device.rows

    assert (cached, computed > 0) == (LONG // 16 if computes else 0, computes)
    assert json.loads(world.outcome(opening, pid="opens", text='"open"').text)[2] == expected
    if computes:
        assert world.engine.device.rows - computed < LONG, "what was computed ahead is found"


def test_an_adapter_that_is_gone_is_named(world):
    world.engine.load_adapter("style")
    world.outcome(adapted, pid="saves")
    world.engine.core.adapters._table.remove("style")

    last = world.outcome(opening, pid="opens", text='"take"')

    assert last.error.cause == "not_found"
    assert "style" in last.error.message
    assert ("local", "mine") in world.snapshots


def test_a_snapshot_replaced_while_it_is_opened_is_read_again(world):
    world.outcome(saving, pid="saves")
    real, answered = world.kvstore._get, []

    def replaced(incoming):
        if not answered:
            answered.append(world.archives.copy())
            world.archives.clear()
        elif len(answered) == 1:
            answered.append(None)
            world.archives.update(answered[0])
        return real(incoming)

    world.kvstore.hub.on(GetSnapshot, replaced)

    assert json.loads(world.outcome(opening, pid="opens", text='"take"').text)[0] == LONG


def test_what_take_deletes_is_what_the_program_gets(world):
    async def takes(api, text):
        model, context = await make(api)
        await api.call("context", "[method]context.save", context, "mine")
        taken = await api.call("context", "[static]context.take", model, "mine")
        return json.dumps(list(await api.call("context", "[method]context.tokens", taken)))

    real = world.kvstore._get

    def replaced(incoming):
        if incoming.message.take:
            key = "local", "mine"
            world.snapshots[key] = msgspec.structs.replace(world.snapshots[key], tokens=[1, 2, 3])
        return real(incoming)

    world.kvstore.hub.on(GetSnapshot, replaced)

    assert json.loads(world.outcome(takes).text) == [1, 2, 3]
    assert not world.snapshots


@pytest.mark.parametrize("stage", ["export", "sealing", "upload"])
def test_a_kill_while_a_snapshot_is_saved_frees_everything(world, stage):
    async def program(api, text):
        _, context = await impure(api)
        await finished(api, await api.call("clocks", "sleep", 10**8))
        await api.call("context", "[method]context.save", context, "mine")
        return "null"

    world.start(program)
    world.run(lambda: world.engine.pages_owned == 3)
    world.engine.paused = stage == "export"
    world.hold_offloads = stage == "sealing"
    if stage == "upload":
        world.wires.cut.add("kvstore")
    world.run(0.3)
    assert not world.ended()

    world.push(Kill("p1", "enough"))
    world.run(0.05)
    world.engine.paused = world.hold_offloads = False
    world.run(0.1)

    assert world.log()[-1].error.code == "terminated"
    assert (world.engine.contexts, world.engine.pages_owned) == (0, 0)
    assert not world.snapshots


async def copying(api, text):
    """Waits in the call that the input names, with pages held."""
    model, context = await impure(api)
    data = await exported(api, context)
    await api.call("context", "[method]context.save", context, "mine")
    await finished(api, await api.call("clocks", "sleep", 10**8))
    match json.loads(text):
        case "import":
            await api.call("context", "[static]context.import", model, data)
        case "export":
            await exported(api, context)
        case "save":
            await api.call("context", "[method]context.save", context, "again")
        case word:
            await api.call("context", f"[static]context.{word}", model, "mine")
    return "null"


CALLS = ["import", "export", "save", "open", "take"]


@pytest.mark.parametrize("call", CALLS)
def test_a_kill_while_a_context_is_copied_frees_everything(world, call):
    world.start(copying, text=json.dumps(call))
    world.run(lambda: ("local", "mine") in world.snapshots)
    world.run(0.05)
    world.engine.paused = True
    world.run(0.3)
    assert not world.ended()

    began = world.wires.now
    world.push(Kill("p1", "enough"))
    world.run(0.05)
    world.engine.paused = False
    world.run(lambda: (world.engine.contexts, world.engine.pages_owned) == (0, 0))

    assert world.log()[-1].error.code == "terminated"
    assert world.wires.now - began < 0.2
    assert ("local", "mine") in world.snapshots


@pytest.mark.parametrize("call", CALLS)
def test_an_engine_that_dies_meanwhile_answers_with_engine_lost(world, call):
    world.start(copying, text=json.dumps(call))
    world.run(lambda: ("local", "mine") in world.snapshots)
    world.run(0.05)
    world.engine.paused = True
    world.run(0.3)

    world.wires.kill("engine")
    world.run(world.ended, limit=1.0)

    assert world.log()[-1].error.cause == "engine_lost"
    assert ("local", "mine") in world.snapshots


@pytest.mark.parametrize("call", ["save", "open", "take"])
def test_without_kvstore_they_fail_retryable(world, call):
    world.start(copying, text=json.dumps(call))
    world.run(lambda: ("local", "mine") in world.snapshots)
    world.run(0.02)

    world.wires.kill("kvstore")
    world.run(world.ended, limit=10.0)

    assert world.log()[-1].error.cause == "store_unavailable"


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_in_words(data):
    for attempt in (lambda: unpack(data), lambda: unpack(b"pie-kv01" + data), lambda: decode(data.decode("latin-1"))):
        with pytest.raises(PieError):
            attempt()


def packed(**fields):
    given = {"magic": "m", "version": 1, "fingerprint": "f", "page_size": 16, "page_bytes": 8, "kv": 0, **fields}
    return pack([msgspec.msgpack.encode(ExportHeader(**given))])


@pytest.mark.parametrize(
    "dropped", [[(0, 1 << 60)], [(0, 64)], [(-64, 8)], [(8, 2)], [(0, 32), (16, 48)], [(32, 48), (0, 16)]]
)
def test_dropped_tokens_that_are_not_there_make_no_room(dropped):
    tokens = list(range(64))
    assert unpack(packed(tokens=tokens, views=[(63, [(0, 16), (20, 63)])])).layout.pages(64, 16) == 2

    with pytest.raises(BadRequest):
        unpack(packed(tokens=tokens, views=[(63, dropped)]))


def test_a_header_that_would_fill_the_memory_is_not_read():
    with pytest.raises(TooLarge):
        unpack(packed(tokens=[0] * (MAX_EXPORT_HEADER + 1)))


def test_more_tokens_than_the_model_takes_are_refused_before_they_are_counted(world):
    async def long(api, text):
        model = await api.call("model", "[static]model.load", "")
        data = base64.b64encode(packed(tokens=[1] * 1_000_000)).decode()
        try:
            await api.call("context", "[static]context.import", model, data)
        except CallError as exc:
            return json.dumps(exc.code)
        return "null"

    world.start(long)

    assert json.loads(world.outcome(long).text) == "too_large"


def test_a_part_that_is_not_there_is_an_error():
    answers = []
    collector = Collector(lambda parts, error: answers.append((parts, error)))

    assert collector.add(Exported(1, 0, 2, 0), [b"head"]) is False
    assert collector.add(Exported(1, 1, 2, 5), [b"x"]) is True
    assert answers[0][1].code == "internal"


def test_large_imports_take_turns():
    hold, entered = CargoHold(), []
    hold.enter(MAX_BYTES, lambda: entered.append("first"))
    give_up = hold.enter(2, lambda: entered.append("second"))
    hold.enter(MAX_BYTES - 1, lambda: entered.append("third"))
    assert entered == ["first"]

    give_up()
    hold.leave(MAX_BYTES)

    assert entered == ["first", "third"]
