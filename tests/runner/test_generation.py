"""What a run can be asked, in stream and in lockstep, over the real engine core."""

from __future__ import annotations

import json
import math

import pytest
from pie_engine.simulation.simulated import next_logits
from pie_runner.process_limits import ProcessLimits
from pie_runner.testing import CallError
from pie_runner.wasm.hostcall import Case
from runner_programs import context_of, distribution, draw, output_of, sampler, spec, steps_of
from runner_world import VOCAB, World

PROMPT = [1, 2, 3]
HOT = sampler(temperature=2.0)


def run_program(world: World, main, **fields):
    event = world.outcome(main, **fields)
    assert event.error is None, event.error
    return json.loads(event.text)


def packed(allowed: range) -> str:
    import base64

    bits = bytearray(-(-VOCAB // 32) * 4)
    for token in allowed:
        bits[token // 8] |= 1 << token % 8
    return base64.b64encode(bytes(bits)).decode()


SAMPLERS = {
    "min-p": sampler(temperature=1.5, min_p=0.2),
    "typical": sampler(temperature=1.5, typical_p=0.3),
    "penalties": sampler(temperature=1.0, repetition_penalty=1.4, presence_penalty=0.6, frequency_penalty=0.3),
    "bias": sampler(temperature=1.0, bias=[(7, 9.0), (8, -math.inf)]),
    "bits": sampler(temperature=2.0, mask=Case("bits", packed(range(40, 60)))),
    "runs": sampler(temperature=2.0, mask=Case("runs", [40, 20, VOCAB - 60])),
    "min-tokens": sampler(temperature=2.0, min_tokens=12, top_k=3),
    "all": sampler(
        temperature=1.1, top_p=0.9, top_k=80, min_p=0.01, typical_p=0.9, repetition_penalty=1.1, min_tokens=3
    ),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_stream_lockstep_and_passes_draw_the_same(world: World, name: str):
    chosen, stop = SAMPLERS[name], [40, 41, 42, 43]

    async def main(api, text):
        drawn = []
        for window in (None, 1):
            context = await context_of(api, PROMPT)
            steps = await steps_of(
                api, context, sampler=chosen, seed=9, window=window, max_tokens=16, stop_ids=stop, text=False
            )
            drawn.append([token for step in steps for token in step.tokens])
        context = await context_of(api, PROMPT)
        alone = []
        while len(alone) < 16:
            asked = draw([0], chosen, seed=9, start=len(PROMPT), stop_ids=stop)
            [[token]] = (await output_of(api, context, draws=[asked])).tokens
            if token in stop:
                break
            alone.append(token)
            await api.call("context", "[method]context.append", context, [token])
        return json.dumps([*drawn, alone])

    stream, lockstep, passes = run_program(world, main)

    assert stream == lockstep == passes
    if name in ("bits", "runs"):
        assert set(stream) <= set(range(44, 60))
    if name == "min-tokens":
        assert len(stream) >= 12


def test_stop_strings_end_the_run_and_leave_the_token_in_the_context(world: World):
    async def main(api, text):
        plain = await steps_of(api, await context_of(api, PROMPT), sampler=HOT, seed=3, max_tokens=30)
        pieces = [step.text for step in plain]
        said = "".join(pieces)
        stop = said[5:8]
        found = []
        for window, shown in ((None, True), (1, True), (None, False)):
            context = await context_of(api, PROMPT)
            steps = await steps_of(
                api, context, sampler=HOT, seed=3, max_tokens=30, stop_strings=["@@@@", stop], window=window, text=shown
            )
            last = steps[-1].finish
            found.append(["".join(step.text for step in steps), last, len(context.tokens), len(steps)])
        return json.dumps([said, stop, found])

    said, stop, found = run_program(world, main)

    shown, lockstep, silent = found
    assert shown == lockstep
    assert shown[:2] == [said[: said.find(stop)], "stop-string"]
    assert silent[:2] == ["", "stop-string"]
    assert silent[2] == shown[2] == len(PROMPT) + shown[3]


def test_probes_come_with_every_token(world: World):
    kinds = [
        Case("entropy"),
        Case("logprobs", [5, 6]),
        Case("distribution", distribution(1.0, 2)),
        Case("distribution", distribution(0.5, 0)),
        Case("resident"),
        Case("logits"),
        Case("hidden"),
    ]

    async def main(api, text):
        seen = []
        for window in (4, 1):
            context = await context_of(api, PROMPT)
            steps = await steps_of(api, context, probes=kinds, window=window, max_tokens=6)
            seen.append([[step.tokens, [_plain(probe) for probe in step.probes], step.finish] for step in steps])
        return json.dumps(seen)

    stream, lockstep = run_program(world, main)

    assert stream == lockstep
    tokens = list(PROMPT)
    for [token], probes, _ in stream:
        logits = next_logits(tokens, VOCAB)
        entropy, logprobs, top, whole, resident, raw, _hidden = probes
        weights = [math.exp(value) for value in logits.tolist()]
        expected = [weight / sum(weights) for weight in weights]
        assert entropy == pytest.approx(-sum(p * math.log(p) for p in expected), rel=1e-4)
        assert logprobs == pytest.approx([math.log(expected[i]) for i in (5, 6)], rel=1e-4)
        assert top[0] == whole[0][:2]
        assert len(whole[0]) == VOCAB
        assert resident == int(logits.argmax()) == token
        assert len(raw) == 4 * -(-VOCAB * 4 // 3)
        tokens.append(token)


def _plain(probe: Case):
    if probe.tag == "resident":
        return probe.value.row.argmax()
    return list(probe.value) if probe.tag == "distribution" else probe.value


def test_rows_that_a_program_keeps_are_limited_and_a_token_is_not_lost(model_files):
    limit = 4 * VOCAB * 6
    world = World(model_files, ProcessLimits(logits_bytes=limit))
    world.add_engine()

    async def main(api, text):
        context = await context_of(api, PROMPT)
        run = await api.call("generation", "[static]run.open", context, spec(probes=[Case("resident")], window=4))
        rows, codes = [], []
        while len(rows) < 5:
            try:
                step = await api.wait("generation.run", run, "next")
            except CallError as exc:
                codes.append(exc.code)
                api.drop(rows[-1])
                rows[-1] = None
                continue
            rows.append(step.probes[0].value)
        try:
            await api.call("generation", "[static]run.open", context, spec(probes=[Case("logits")], window=7))
        except CallError as exc:
            codes.append(exc.code)
        held = len(context.tokens)
        for row in rows:
            if row is not None:
                api.drop(row)
        api.drop(run)
        return json.dumps([codes, held, context.owner.usage.rows])

    codes, held, left = run_program(world, main)

    # Four are leased for what the run may be ahead by, so two can be held beside it.
    assert set(codes) == {"limit_exceeded"}
    assert held == len(PROMPT) + 5
    assert left == 0


def _source(kind, text):
    from types import SimpleNamespace

    return SimpleNamespace(kind=kind, text=text)


def test_guesses_change_the_speed_and_are_counted(world: World):
    from types import SimpleNamespace

    async def main(api, text):
        tokens, stats = [], []
        for speculation in (None, SimpleNamespace(ngram=2, drafts=4, model=False)):
            context = await context_of(api, PROMPT * 5)
            run = await api.call(
                "generation", "[static]run.open", context, spec(speculation=speculation, max_tokens=40)
            )
            first = await api.call("generation", "[method]run.stats", run)
            while (await api.wait("generation.run", run, "next")).finish is None:
                pass
            tokens.append(context.tokens)
            stats.append([first, await api.call("generation", "[method]run.stats", run)])
        return json.dumps([tokens, stats])

    tokens, stats = run_program(world, main)

    assert tokens[0] == tokens[1]
    assert [first for first, _ in stats] == [None, None]
    assert stats[0][1][1:] == [0, 0]
    assert stats[1][1][1] >= stats[1][1][2] >= 0


def test_a_paused_run_gives_what_is_there_and_goes_on_later(world: World):
    async def main(api, text):
        context = await context_of(api, PROMPT)
        run = await api.call("generation", "[static]run.open", context, spec(max_tokens=60, window=8))
        await api.wait("generation.run", run, "next")
        for _ in range(2):
            await api.call("generation", "[method]run.pause", run)
        drained = 1
        for _ in range(20):
            done = await api.call("clocks", "sleep", 20_000_000)
            await api.wait("futures.done", done)
            while await api.call("generation", "[method]run.next", run) is not None:
                drained += 1
        for _ in range(2):
            await api.call("generation", "[method]run.resume", run)
        while (await api.wait("generation.run", run, "next")).finish is None:
            pass
        await api.call("generation", "[method]run.pause", run)
        return json.dumps([drained, len(context.tokens)])

    drained, held = run_program(world, main)

    assert drained < 60
    assert held == len(PROMPT) + 60


def test_the_end_of_a_closed_run_is_still_told(world: World):
    async def main(api, text):
        context = await context_of(api, PROMPT)
        run = await api.call("generation", "[static]run.open", context, spec(max_tokens=60))
        await api.wait("generation.run", run, "next")
        await api.call("generation", "[method]run.close", run)
        done = await api.call("clocks", "sleep", 100_000_000)
        await api.wait("futures.done", done)
        stats = await api.call("generation", "[method]run.stats", run)
        api.drop(run)
        return json.dumps([list(stats), len(context.session.ending)])

    assert run_program(world, main) == [[0, 0, 0], 0]


NAN = math.nan
BAD = {
    "min-p": {"sampler": sampler(min_p=1.5)},
    "min-p-nan": {"sampler": sampler(min_p=NAN)},
    "typical": {"sampler": sampler(typical_p=0.0)},
    "repetition": {"sampler": sampler(repetition_penalty=0.0)},
    "presence": {"sampler": sampler(presence_penalty=NAN)},
    "frequency": {"sampler": sampler(frequency_penalty=math.inf)},
    "bias-id": {"sampler": sampler(bias=[(VOCAB, 1.0)])},
    "bias-twice": {"sampler": sampler(bias=[(1, 1.0), (1, 2.0)])},
    "bias-nan": {"sampler": sampler(bias=[(1, NAN)])},
    "bias-many": {"sampler": sampler(bias=[(i % VOCAB, 1.0) for i in range(1025)])},
    "bits-short": {"sampler": sampler(mask=Case("bits", "AAAA"))},
    "bits-none": {"sampler": sampler(mask=Case("bits", packed(range(0))))},
    "bits-text": {"sampler": sampler(mask=Case("bits", "%%%"))},
    "runs-short": {"sampler": sampler(mask=Case("runs", [1, 2]))},
    "runs-none": {"sampler": sampler(mask=Case("runs", [VOCAB]))},
    "min-tokens": {"sampler": sampler(min_tokens=6)},
    "stop-empty": {"stop_strings": ["a", ""]},
    "stop-many": {"stop_strings": ["a"] * 65},
    "stop-long": {"stop_strings": ["a" * 1025]},
    "grammar-long": {"grammar": _source("lark", "x" * 300_000)},
    "ngram": {"speculation": type("S", (), {"ngram": 17, "drafts": 4, "model": False})},
    "drafts": {"speculation": type("S", (), {"ngram": 2, "drafts": 0, "model": False})},
    "probes-many": {"probes": [Case("entropy")] * 17},
    "probe-ids": {"probes": [Case("logprobs", [VOCAB])]},
    "probe-no-ids": {"probes": [Case("logprobs", [])]},
    "probe-many-ids": {"probes": [Case("logprobs", [1] * 1025)]},
    "probe-temperature": {"probes": [Case("distribution", distribution(0.0, 1))]},
    "rows-ahead": {"probes": [Case("logits"), Case("hidden")], "window": 33},
}
LARGE = {"bias-many", "stop-many", "stop-long", "grammar-long", "probes-many", "probe-many-ids", "rows-ahead"}


def test_bad_values_are_refused_at_once_and_the_context_stays_usable(world: World):
    async def main(api, text):
        context = await context_of(api, PROMPT)
        codes = {}
        for name, fields in BAD.items():
            try:
                api.drop(await api.call("generation", "[static]run.open", context, spec(**fields)))
            except CallError as exc:
                codes[name] = exc.code
        steps = await steps_of(api, context, max_tokens=2)
        return json.dumps([codes, len(steps), context.owner.usage.rows])

    codes, steps, rows = run_program(world, main)

    assert codes == {name: "too_large" if name in LARGE else "bad_request" for name in BAD}
    assert (steps, rows) == (2, 0)


def test_what_only_the_engine_can_judge_is_told_by_the_first_step(world: World):
    async def main(api, text):
        context = await context_of(api, PROMPT)
        codes = []
        for fields in (
            {"speculation": type("S", (), {"ngram": 0, "drafts": 4, "model": True})},
            {"grammar": _source("regex", "a+")},
            {"sampler": sampler(bias=[(i, -math.inf) for i in range(VOCAB)])},
        ):
            run = await api.call("generation", "[static]run.open", context, spec(**fields))
            try:
                await api.wait("generation.run", run, "next")
            except CallError as exc:
                codes.append(exc.code)
        steps = await steps_of(api, context, max_tokens=2)
        return json.dumps([codes, len(steps)])

    assert run_program(world, main) == [["unsupported", "unsupported", "bad_request"], 2]
