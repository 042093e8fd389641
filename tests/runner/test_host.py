"""Host functions as programs meet them: all of the WIT is there, bad arguments get typed errors."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest
from pie_engine.simulation.simulated import next_logits
from pie_runner.host import TABLE
from pie_runner.testing import CallError
from pie_runner.wasm.world import offered_world
from pie_wire.errors import ProgramError
from pie_wire.hub import Incoming
from pie_wire.messages.engine import GetModel
from pie_wire.messages.kvstore import Snapshot
from runner_programs import distribution, draw, generating, pass_, probe, sampler, spec
from runner_world import MAX_CONTEXT, VOCAB


def test_every_function_of_the_world_is_there_and_no_other():
    offered = {(interface.rpartition("/")[2].partition("@")[0], name) for interface, name in offered_world()}

    assert set(TABLE) >= offered
    assert set(TABLE) == offered


async def code_of(call):
    try:
        await call
    except CallError as exc:
        return exc.code
    return "ok"


NAN = float("nan")


async def bad_arguments(api, text):
    """The code that each call answers, by a short name."""
    model = await api.call("model", "[static]model.load", "tiny")
    tokenizer = await api.call("model", "[method]model.tokenizer", model)
    context = await api.call("context", "[static]context.create", model)
    empty = await api.call("context", "[static]context.create", model)
    await api.call("context", "[method]context.append", context, [1, 2])

    def append(ids):
        return api.call("context", "[method]context.append", context, ids)

    def run(where=context, **fields):
        return api.call("generation", "[static]run.open", where, spec(**fields))

    def forward(**fields):
        return api.call("forward", "execute", context, pass_(**fields))

    calls = {
        "load": api.call("model", "[static]model.load", "nosuch"),
        "append-high": append([VOCAB]),
        "append-negative": append([-1]),
        "append-long": append([1] * MAX_CONTEXT),
        "truncate": api.call("context", "[method]context.truncate", context, 99),
        "run-empty": run(empty),
        "run-nan": run(sampler=sampler(temperature=NAN)),
        "run-negative": run(sampler=sampler(temperature=-1.0)),
        "run-top-p": run(sampler=sampler(top_p=0.0)),
        "run-top-p-nan": run(sampler=sampler(top_p=NAN)),
        "run-zero": run(max_tokens=0),
        "run-window": run(window=0),
        "run-stop": run(stop_ids=[VOCAB + 5]),
        "run-stops": run(stop_ids=[1] * 2000),
        "pass-row": forward(tokens=[1], draws=[draw([1])]),
        "pass-token": forward(tokens=[VOCAB]),
        "pass-nan": forward(draws=[draw([0], sampler(temperature=NAN))]),
        "pass-probe": forward(probes=[probe(0, "distribution", distribution(0.0, 1))]),
        "pass-many": forward(draws=[draw([0] * 5000)]),
        "decode": api.call("model", "[method]tokenizer.decode", tokenizer, [VOCAB], False),
        "encode": api.call("model", "[method]tokenizer.encode", tokenizer, "x" * (5 << 20)),
        "name": api.call("context", "[method]context.save", context, ""),
        "name-long": api.call("context", "[static]context.open", model, "x" * 1000),
        "messages": api.call("chat", "render", model, "not json", None, True),
        "roles": api.call("chat", "render", model, '[{"content": "x"}]', None, True),
        "send": api.call("session", "send", "x" * (2 << 20), "wait"),
    }
    return json.dumps({name: await code_of(call) for name, call in calls.items()})


def test_bad_arguments_get_typed_errors(world):
    codes = json.loads(world.outcome(bad_arguments).text)

    large = {"append-long", "pass-many", "encode", "send", "run-stops"}
    assert codes.pop("load") == "not_found"
    assert codes == {name: "too_large" if name in large else "bad_request" for name in codes}


async def passes(api, text):
    model = await api.call("model", "[static]model.load", "")
    context = await api.call("context", "[static]context.create", model)
    await api.call("context", "[method]context.append", context, [1, 2])
    request = pass_(
        tokens=[3, 4],
        draws=[draw([0, 1]), draw([1], seed=7)],
        probes=[
            probe(1, "logits"),
            probe(1, "distribution", distribution(0.5, 3)),
            probe(0, "distribution", distribution(1.0, 2)),
        ],
    )
    pending = await api.call("forward", "execute", context, request)
    output = await api.wait("forward.pending-output", pending)
    again = await code_of(api.call("forward", "[method]pending-output.get", pending))
    probes = [p.value if isinstance(p.value, str) else [p.value.ids, p.value.probabilities] for p in output.probes]
    return json.dumps({"tokens": output.tokens, "probes": probes, "again": again, "context": list(context.tokens)})


def test_a_pass_returns_draws_logits_and_distributions(world):
    result = json.loads(world.outcome(passes).text)

    first, second = next_logits([1, 2, 3], VOCAB), next_logits([1, 2, 3, 4], VOCAB)
    assert result["tokens"] == [[int(first.argmax()), int(second.argmax())], [int(second.argmax())]]
    logits = np.frombuffer(base64.b64decode(result["probes"][0]), dtype="<f4")
    assert np.array_equal(logits, second)
    ids, probabilities = result["probes"][1]
    weights = np.exp(second.astype(np.float64) / 0.5)
    weights /= weights.sum()
    assert ids == np.argsort(-weights, kind="stable")[:3].tolist()
    assert probabilities == pytest.approx(weights[ids].tolist())
    assert result["probes"][2][0] == np.argsort(-first, kind="stable")[:2].tolist()
    assert result["again"] == "closed"
    assert result["context"] == [1, 2, 3, 4]


async def snapshots(api, text):
    model = await api.call("model", "[static]model.load", "")
    context = await api.call("context", "[static]context.create", model)
    await api.call("context", "[method]context.append", context, [1, 2, 3])
    await api.call("context", "[method]context.save", context, "mine")
    await api.call("context", "[method]context.append", context, [4])
    await api.call("context", "[method]context.save", context, "mine")
    opened = await api.call("context", "[static]context.open", model, "mine")
    taken = await api.call("context", "[static]context.take", model, "mine")
    gone = await api.call("context", "[static]context.open", model, "mine")
    foreign = await code_of(api.call("context", "[static]context.take", model, "foreign"))
    deleted = [await api.call("context", "[static]context.delete", model, name) for name in ("foreign", "foreign")]
    return json.dumps([opened.tokens, taken.tokens, gone, foreign, deleted])


def test_snapshots_are_saved_opened_taken_and_deleted(world):
    world.snapshots["local", "foreign"] = Snapshot("foreign", "another-model", [1])

    result = json.loads(world.outcome(snapshots).text)

    assert result == [[1, 2, 3, 4], [1, 2, 3, 4], None, "bad_request", [True, False]]


async def saves(api, text):
    model = await api.call("model", "[static]model.load", "")
    context = await api.call("context", "[static]context.create", model)
    return json.dumps(await code_of(api.call("context", "[method]context.save", context, "mine")))


def test_a_save_without_kvstore_fails_retryable(world):
    world.start(saves)
    world.run(lambda: "p1" in world.runner.processes and world.runner.processes["p1"].state != "fetching")
    world.wires.kill("kvstore")
    world.run(world.ended)

    assert json.loads(world.log()[-1].text) in ("store_unavailable", "ok")


async def long_text(api, text):
    model = await api.call("model", "[static]model.load", "")
    tokenizer = await api.call("model", "[method]model.tokenizer", model)
    text = "some words " * 2000
    ids = await api.call("model", "[method]tokenizer.encode", tokenizer, text)
    back = await api.call("model", "[method]tokenizer.decode", tokenizer, ids, True)
    return json.dumps(back == text)


def test_long_texts_are_encoded_off_the_loop(world):
    world.hold_offloads = True
    world.start(long_text)
    world.run(0.3)
    assert len(world.offloads) == 1
    assert not world.ended()

    world.hold_offloads = False
    world.run(world.ended)
    assert world.log()[-1].text == "true"


async def draws(api, text):
    model = await api.call("model", "[static]model.load", "")
    context = await api.call("context", "[static]context.create", model)
    await api.call("context", "[method]context.append", context, [1, 2])
    runs = []
    for seed in (None, None, 7, 7):
        child = await api.call("context", "[method]context.fork", context)
        hot = sampler(temperature=1.0)
        run = await api.call("generation", "[static]run.open", child, spec(sampler=hot, seed=seed, max_tokens=6))
        while (await api.wait("generation.run", run, "next")).finish is None:
            pass
        runs.append(child.tokens)
    random = await api.call("random", "get-bytes", 16)
    return json.dumps([runs, random.hex()])


def test_fresh_seeds_differ_and_given_ones_repeat(world):
    runs, _ = json.loads(world.outcome(draws).text)

    assert runs[0] != runs[1]
    assert runs[2] == runs[3]


async def about(api, text):
    names = ("version", "instance-id", "user", "tenant", "program", "arguments", "models")
    known = {name: await api.call("runtime", name) for name in names}
    before = await api.call("clocks", "monotonic-now")
    done = await api.call("clocks", "sleep", 300_000_000)
    await api.wait("futures.done", done)
    known["slept"] = (await api.call("clocks", "monotonic-now")) - before
    return json.dumps(known)


def test_a_program_can_tell_where_it_runs(world):
    known = json.loads(world.outcome(about, text='{"a": [1]}', name="teller").text)

    assert known["instance-id"] == "p1"
    assert (known["user"], known["tenant"], known["program"]) == ("local", "local", "teller@0.1.0")
    assert known["arguments"] == '{"a": [1]}'
    assert known["models"] == ["tiny"]
    assert 300_000_000 <= known["slept"] < 400_000_000


async def empty_wait(api, text):
    await api.call("futures", "wait-any", [])
    return "null"


def test_waiting_for_nothing_is_refused(world):
    assert world.outcome(empty_wait).error.code == "program_error"


async def load_early(api, text):
    model = await api.call("model", "[static]model.load", "")
    return json.dumps(await api.call("model", "[method]model.name", model))


def test_a_program_waits_for_an_engine_that_is_on_its_way(bare_world):
    bare_world.start(load_early)
    bare_world.run(1.0)
    bare_world.add_engine()
    bare_world.run(bare_world.ended)
    assert bare_world.log()[-1].text == '"tiny"'


def test_an_engine_replaced_before_it_told_its_model_is_asked_once_and_has_one_session(bare_world):
    first = bare_world.add_engine()
    first.hub.on(GetModel, lambda incoming: None)
    bare_world.run(lambda: any(link.peer is not None for link in bare_world.runner.engines._links.values()))
    bare_world.wires.kill("engine")
    second = bare_world.add_engine()
    asked: list[Incoming[GetModel]] = []
    answer = second.hub._handlers[GetModel]
    second.hub.on(GetModel, lambda incoming: asked.append(incoming) or answer(incoming))

    bare_world.start(load_early)
    bare_world.run(bare_world.ended)
    bare_world.run(3.0)

    assert len(asked) == 1
    assert bare_world.log()[-1].text == '"tiny"'


def test_without_an_engine_the_wait_ends(bare_world):
    assert "unavailable" in bare_world.outcome(load_early).error.message


def test_processes_spread_over_engines_and_stay_where_they_are(world):
    world.add_engine("other")
    world.run(lambda: sum(link.session is not None for link in world.runner.engines._links.values()) == 2)
    for i in range(4):
        world.start(generating, pid=f"p{i}")
    world.run(lambda: sum(engine.contexts for engine in world.engines.values()) == 4)

    assert [engine.contexts for engine in world.engines.values()] == [2, 2]


async def failing(api, text):
    await api.call("runtime", "set-cause", "engine_lost")
    await api.call("runtime", "set-cause", "no such code")
    raise ProgramError("a traceback")


def test_a_failure_names_the_error_it_follows_from(world):
    error = world.outcome(failing).error

    assert (error.code, error.cause) == ("program_error", "engine_lost")
