"""Explicit passes: positions, masks, probes, guesses."""

from __future__ import annotations

import base64
import json
from types import SimpleNamespace

import numpy as np
import pytest
from pie_engine.simulation.simulated import next_logits
from pie_runner.process_limits import ProcessLimits
from pie_runner.testing import CallError
from pie_runner.wasm.hostcall import Case
from runner_programs import context_of, draw, guesses, output_of, pass_, probe, sampler, steps_of
from runner_world import MAX_CONTEXT, VOCAB, World

PROMPT = [1, 2, 3]


def run_program(world: World, main, **fields):
    event = world.outcome(main, **fields)
    assert event.error is None, event.error
    return json.loads(event.text)


def best(tokens) -> int:
    return int(next_logits(list(tokens), VOCAB).argmax())


MASKS = {
    "causal": (Case("causal"), [[1, 2, 3, 4], [1, 2, 3, 4, 5]]),
    "window": (Case("window", SimpleNamespace(window=2, sink=0)), [[3, 4], [4, 5]]),
    "sink": (Case("window", SimpleNamespace(window=1, sink=1)), [[1, 4], [1, 5]]),
    "runs": (Case("runs", [[1, 3], []]), [[2, 3, 4], [1, 2, 3, 4, 5]]),
    "tree": (Case("tree", [-1, -1]), [[1, 2, 3, 4], [1, 2, 3, 5]]),
}


@pytest.mark.parametrize("name", MASKS)
def test_rows_see_what_the_mask_shows(world: World, name: str):
    mask, seen = MASKS[name]

    async def main(api, text):
        context = await context_of(api, PROMPT)
        output = await output_of(api, context, tokens=[4, 5], mask=mask, draws=[draw([0, 1])])
        return json.dumps([output.tokens, context.tokens])

    [[drawn], tokens] = run_program(world, main)

    # Token n is at position n - 1, but for the tree's second row, a sibling of the first.
    places = [None if name == "tree" else [token - 1 for token in row] for row in seen]
    logits = [next_logits(row, VOCAB, at) for row, at in zip(seen, places, strict=True)]
    assert drawn == [int(row.argmax()) for row in logits]
    assert tokens == [1, 2, 3, 4, 5]


def test_rows_may_have_positions_of_their_own(world: World):
    hot = sampler(temperature=3.0)

    async def main(api, text):
        drawn = []
        for positions in ([], [3, 4], [3, 9]):
            context = await context_of(api, PROMPT)
            output = await output_of(
                api, context, tokens=[4, 5], positions=positions, draws=[draw([0, 1], hot, seed=1)]
            )
            drawn.append(output.tokens[0])
        return json.dumps(drawn)

    usual, same, other = run_program(world, main)

    assert usual == same
    # A draw is a function of seed and position.
    assert other[0] == usual[0]
    assert other[1] != usual[1]


def test_every_probe_of_a_row(world: World):
    async def main(api, text):
        context = await context_of(api, PROMPT)
        asked = [
            probe(0, "logits"),
            probe(0, "resident"),
            probe(0, "logprobs", [4, 9]),
            probe(0, "entropy"),
            probe(0, "hidden"),
        ]
        output = await output_of(api, context, probes=asked)
        raw, resident, logprobs, entropy, hidden = output.probes
        row = resident.value
        await api.call("logits", "[method]logits.temperature", row, 0.5)
        await api.call("logits", "[method]logits.keep-top-k", row, 3)
        kept = await api.call("logits", "[method]logits.topk", row, 10)
        drawn = await api.call("logits", "[method]logits.draw", row)
        again = await api.call(
            "logits", "[static]logits.from-bytes", await api.call("logits", "[method]logits.read", row)
        )
        same = await api.call("logits", "[method]logits.argmax", again)
        held = context.owner.usage.rows
        return json.dumps(
            [raw.value, kept.ids, drawn, same, held, logprobs.value, entropy.value, hidden.tag, output.cached_tokens]
        )

    raw, kept, drawn, same, held, logprobs, entropy, hidden, cached = run_program(world, main)

    logits = next_logits(PROMPT, VOCAB).astype(np.float64)
    expected = logits - np.log(np.exp(logits).sum())
    assert np.array_equal(np.frombuffer(base64.b64decode(raw), "<f4"), next_logits(PROMPT, VOCAB))
    assert kept == np.argsort(-logits, kind="stable")[:3].tolist()
    assert drawn in kept
    assert same == kept[0]
    assert held == 2 * 4 * VOCAB
    assert logprobs == pytest.approx(expected[[4, 9]].tolist(), rel=1e-4)
    assert entropy == pytest.approx(-(np.exp(expected) * expected).sum(), rel=1e-4)
    assert (hidden, cached) == ("hidden", 0)


def test_verification_appends_the_right_guesses(world: World):
    right = list(PROMPT)
    for _ in range(4):
        right.append(best(right))
    chain = right[3:]
    wrong = (chain[2] + 1) % VOCAB

    async def verified(api, tokens, parents):
        context = await context_of(api, PROMPT)
        pending = await api.call("forward", "verify", context, guesses(tokens, parents))
        output = await api.wait("forward.pending-output", pending)
        after = context.tokens[:]
        steps = await steps_of(api, context, max_tokens=1)
        return [output.tokens[0], after, steps[0].tokens[0]]

    async def main(api, text):
        return json.dumps(
            [
                await verified(api, chain[:3], [-1, 0, 1]),
                await verified(api, [*chain[:2], wrong], [-1, 0, 1]),
                await verified(api, [wrong, chain[0], wrong, chain[1]], [-1, -1, 1, 1]),
                await verified(api, [], []),
            ]
        )

    all_right, partly, tree, none = run_program(world, main)

    assert all_right == [chain, right[:6], chain[3]]
    assert partly == [chain[:3], right[:5], chain[2]]
    assert tree == [chain[:3], right[:5], chain[2]]
    assert none == [chain[:1], PROMPT, chain[0]]


def test_until_a_verification_is_answered_nothing_else_may_be_asked(world: World):
    async def main(api, text):
        context = await context_of(api, PROMPT)
        pending = await api.call("forward", "verify", context, guesses([5], [-1]))
        codes = []
        for interface, function, *arguments in (
            ("context", "[method]context.append", [1]),
            ("context", "[method]context.truncate", 1),
            ("context", "[method]context.fork"),
            ("context", "[method]context.flush"),
            ("context", "[method]context.save", "x"),
            ("forward", "verify", guesses([5], [-1])),
            ("forward", "execute", pass_()),
        ):
            try:
                await api.call(interface, function, context, *arguments)
            except CallError as exc:
                codes.append(exc.code)
        api.drop(pending)
        while context._verification is not None and not context._verification.settled:
            done = await api.call("clocks", "sleep", 1_000_000)
            await api.wait("futures.done", done)
        await api.call("context", "[method]context.append", context, [9])
        return json.dumps([codes, context.tokens])

    codes, tokens = run_program(world, main)

    assert codes == ["conflict"] * 7
    assert tokens == ([*PROMPT, 9] if best(PROMPT) != 5 else [*PROMPT, 5, 9])


def test_a_dropped_pass_owes_no_rows(world: World):
    async def main(api, text):
        context = await context_of(api, PROMPT)
        usage = context.owner.usage
        pending = await api.call("forward", "execute", context, pass_(probes=[probe(0, "logits")]))
        asked = usage.rows
        api.drop(pending)
        dropped = usage.rows
        pending = await api.call("forward", "execute", context, pass_(probes=[probe(0, "logits")]))
        await api.wait("forward.pending-output", pending)
        return json.dumps([asked, dropped, usage.rows])

    assert run_program(world, main) == [4 * VOCAB, 0, 0]


def test_rows_of_a_pass_are_limited(model_files):
    world = World(model_files, ProcessLimits(logits_bytes=4 * VOCAB * 2))
    world.add_engine()

    async def main(api, text):
        context = await context_of(api, PROMPT)
        try:
            await api.call("forward", "execute", context, pass_(tokens=[7], probes=[probe(0, "resident")] * 3))
        except CallError as exc:
            output = await output_of(api, context, probes=[probe(0, "resident")] * 2)
            return json.dumps([exc.code, context.tokens, len(output.probes), context.owner.usage.rows])

    assert run_program(world, main) == ["limit_exceeded", PROMPT, 2, 4 * VOCAB * 2]


HUGE = Case("bits", base64.b64encode(b"\xff" * (-(-VOCAB // 32) * 4)).decode())
BAD = {
    "positions": {"tokens": [1, 2], "positions": [5]},
    "position-far": {"tokens": [1], "positions": [MAX_CONTEXT]},
    "window": {"tokens": [1], "mask": Case("window", SimpleNamespace(window=0, sink=0))},
    "runs-count": {"tokens": [1], "mask": Case("runs", [])},
    "runs-none": {"tokens": [1], "mask": Case("runs", [[4]])},
    "runs-beyond": {"tokens": [1, 2], "mask": Case("runs", [[0, 5], []])},
    "tree-count": {"tokens": [1], "mask": Case("tree", [])},
    "tree-parent": {"tokens": [1], "mask": Case("tree", [0])},
    "start": {"tokens": [1], "draws": [draw([0], start=9)]},
    "stop": {"tokens": [1], "draws": [draw([0], stop_ids=[VOCAB])]},
    "sampler": {"tokens": [1], "draws": [draw([0], sampler(min_p=2.0))]},
    "probe-row": {"tokens": [1], "probes": [probe(1, "entropy")]},
    "numbers": {"tokens": [1], "mask": Case("runs", [[0] * 300_000])},
    "rows": {"tokens": [1], "probes": [probe(0, "hidden")] * 65},
}


def test_bad_passes_are_refused_and_leave_the_context_as_it_was(world: World):
    async def main(api, text):
        context = await context_of(api, PROMPT)
        codes = {}
        for name, fields in BAD.items():
            try:
                await output_of(api, context, **fields)
            except CallError as exc:
                codes[name] = exc.code
        for name, tokens, parents in (
            ("guess", [VOCAB], [-1]),
            ("parents", [1, 2], [-1]),
            ("order", [1, 2], [-1, 1]),
            ("many", [1] * 257, [-1] * 257),
        ):
            try:
                await api.call("forward", "verify", context, guesses(tokens, parents))
            except CallError as exc:
                codes[name] = exc.code
        output = await output_of(api, context, draws=[draw([0])])
        return json.dumps([codes, context.tokens, output.tokens])

    codes, tokens, drawn = run_program(world, main)

    large = {"numbers", "rows", "many"}
    assert codes == {name: "too_large" if name in large else "bad_request" for name in codes}
    assert set(codes) == {*BAD, "guess", "parents", "order", "many"}
    assert tokens == PROMPT
    assert drawn == [[best(PROMPT)]]


def test_masks_of_many_rows_are_bounded_before_they_are_sent(world: World, monkeypatch):
    from pie_runner.host import samplers

    monkeypatch.setattr(samplers, "MAX_PASS_BYTES", 100)

    async def main(api, text):
        context = await context_of(api, PROMPT)
        try:
            await output_of(api, context, tokens=[1, 2, 3], draws=[draw([0, 1, 2], sampler(mask=HUGE))])
        except CallError as exc:
            return json.dumps(exc.code)

    assert run_program(world, main) == "too_large"


def test_an_engines_death_ends_a_verification(world: World):
    async def main(api, text):
        context = await context_of(api, PROMPT)
        world.engine.paused = True
        pending = await api.call("forward", "verify", context, guesses([5], [-1]))
        await api.call("session", "send", "asked", "wait")
        try:
            await api.wait("forward.pending-output", pending)
        except CallError as exc:
            first = exc.code
        try:
            await api.call("context", "[method]context.append", context, [1])
        except CallError as exc:
            return json.dumps([first, exc.code])

    world.start(main)
    world.run(lambda: any(event.kind == "message" for event in world.log()))
    world.wires.kill("engine")
    world.run(world.ended)

    assert json.loads(world.log()[-1].text) == ["engine_lost", "engine_lost"]
