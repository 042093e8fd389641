"""What generations, passes and rows of logits can be asked from Python."""

from __future__ import annotations

import textwrap
from typing import Any

import pytest
from lab import Lab
from pie_runner.wasm.program import Program

PRELUDE = "import asyncio\nfrom inferlet import *\n"


def run(lab: Lab, python: Program, body: str) -> Any:
    source = PRELUDE + "async def main(input=None):\n" + textwrap.indent(textwrap.dedent(body), "    ")
    return lab.run(python, source).value


def test_probes_come_with_every_step(lab: Lab, python: Program):
    body = """
        asked = [Entropy(), LogProbs([1, 2]), Distribution(k=2), Resident(), Logits(), Hidden()]
        steps = [step async for step in Context().append_text("a").generate(max_tokens=2, probes=asked)]
        [[entropy, logprobs, (ids, chances), row, raw, hidden]] = steps[1].probes
        return [len(steps[0].probes), entropy, logprobs, ids, chances, row.argmax(), len(raw), len(hidden)]
    """

    assert run(lab, python, body) == [1, 1.5, [-0.5, -0.5], [0, 1], [0.5, 0.5], 255, 8, 8]


def test_a_sampler_of_the_programs_own(lab: Lab, python: Program):
    body = """
        ctx = Context().append_text("a")
        ask = ctx.forward()
        handle = ask.probe(0, Resident())
        row = (await ask.execute()).row(handle)
        other = row.fork().allow([7, 9]).bias({7: 5.0})
        row.temperature(0.5).keep_top_k(4).keep_min_p(1e-6).keep_top_p(0.999).keep_typical_p(1.0)
        row.penalize([255], repetition=2.0)
        return [row.draw(), row.topk(2), other.argmax(), other.gather([7, 8])[0], other.entropy() > 0, len(row)]
    """

    assert run(lab, python, body) == [254, [[254, 508.0], [253, 506.0]], 7, 12.0, True, 256]


def test_rows_come_from_bytes_and_go_back(lab: Lab, python: Program):
    body = """
        import struct
        with LogitsRow.from_bytes(struct.pack("<4f", 1, 2, 3, 4)) as row:
            row.mask(bytes([0b0110, 0, 0, 0])).log_softmax()
            back = struct.unpack("<4f", row.to_bytes())
            code = ""
            try:
                row.sample(2.0)
            except PieError as exc:
                code = exc.code
            return [back[0] < -1e30, round(back[2], 4), row.sample(0.0), row.sample(0.9), code]
    """

    assert run(lab, python, body) == [True, -0.3133, 1, 2, "bad_request"]


def test_everything_a_sampler_says_arrives(lab: Lab, python: Program):
    body = """
        sampler = Sampler.min_p(0.5, 0.25).but(
            typical_p=0.5, repetition_penalty=2.0, presence_penalty=0.5, frequency_penalty=0.25,
            bias={3: 1.5}, mask=bytes(32), min_tokens=2,
        )
        gen = Context().append_text("a").generate(
            sampler, max_tokens=4, stop=["c"], grammar=Regex("b+"), speculation=Speculation(ngram=2), seed=5, window=3
        )
        return await gen.text()
    """

    assert run(lab, python, body) == "b"
    [spec] = lab.fake.specs
    assert tuple(spec.sampler)[:8] == (0.5, 1.0, 0, 0.25, 0.5, 2.0, 0.5, 0.25)
    assert spec.sampler.bias == [(3, 1.5)]
    assert (spec.sampler.mask.tag, spec.sampler.min_tokens) == ("bits", 2)
    assert (spec.stop_strings, spec.grammar.kind, spec.grammar.text) == (["c"], "regex", "b+")
    assert (tuple(spec.speculation), spec.seed, spec.window, spec.text) == ((2, 8, False), 5, 3, True)


def test_generations_pause_and_tell_their_figures(lab: Lab, python: Program):
    body = """
        gen = Context().append_text("a").generate(max_tokens=3)
        gen.pause()
        first = await anext(gen)
        gen.pause()
        gen.resume()
        before = gen.stats
        rest = await gen.text()
        return [first.text, before is None or before.drafted, rest, [gen.stats.cached_tokens, gen.stats.accepted]]
    """

    result = run(lab, python, body)

    assert [result[0], *result[2:]] == ["b", "cd", [1, 3]]


@pytest.mark.parametrize(
    ("tokens", "parents", "drawn", "text"),
    [
        ("[98, 99]", None, [98, 99, 100], "abc"),
        ("[98, 120]", None, [98, 99], "ab"),
        ("[120, 98]", "[-1, -1]", [98, 99], "ab"),
    ],
)
def test_guesses_of_the_programs_own(
    lab: Lab, python: Program, tokens: str, parents: str | None, drawn: list[int], text: str
):
    body = f"""
        ctx = Context().append_text("a")
        drawn = await ctx.verify({tokens}, parents={parents})
        return [drawn, ctx.text()]
    """

    assert run(lab, python, body) == [drawn, text]


def test_passes_take_positions_and_masks(lab: Lab, python: Program):
    body = """
        ctx = Context().append_text("a")
        drawn = []
        for ask in (
            ctx.forward().input([98, 99], [1, 2]).attend_window(4, 1),
            ctx.forward().input([98, 99]).attend_tree([-1, -1]),
            ctx.forward().input([98]).attend_runs([[0, 2]]),
        ):
            handle = ask.sample([0], Sampler.greedy(), start=1, stop_ids=[0])
            drawn.append((await ask.execute()).token(handle))
        return drawn
    """

    assert run(lab, python, body) == [99, 99, 99]


def test_matchers_of_grammars(lab: Lab, python: Program):
    body = """
        matcher = Grammar(Regex("abc")).matcher()
        matcher.accept([97])
        other = matcher.fork()
        row = LogitsRow.from_bytes(bytes(4 * 256)).mask(matcher.mask())
        other.accept(other.forced())
        code = ""
        try:
            matcher.accept([120])
        except PieError as exc:
            code = exc.code
        seen = [row.argmax(), code, other.complete, other.terminated, matcher.complete]
        other.rollback(2)
        matcher.reset()
        seen += [other.forced(), matcher.forced()]
        matcher.release()
        return seen
    """

    assert run(lab, python, body) == [98, "bad_request", True, True, False, [98, 99], [97, 98, 99]]


@pytest.mark.parametrize("probes", ["", "probes=[Entropy()]"], ids=["drained", "by steps"])
def test_text_is_sent_while_it_is_decoded(lab: Lab, python: Program, probes: str):
    body = f"""
        with Context().append_text("a") as ctx:
            plain = await ctx.generate(max_tokens=3, {probes}).send()
            generation = ctx.generate(max_tokens=2, stop=[], {probes})
            named = await generation.send("delta")
            return [plain, named, generation.finish_reason, generation.tokens_generated, ctx.text()]
    """
    source = PRELUDE + "async def main(input=None):\n" + textwrap.indent(textwrap.dedent(body), "    ")
    launched = lab.run(python, source)

    assert launched.value == ["bcd", "ef", "length", 2, "abcdef"]
    assert launched.instance.sent == ["b", "c", "d", '{"delta": "e"}', '{"delta": "f"}']


def test_who_collects_a_generation_that_is_closed_meanwhile_gets_what_there_is(lab: Lab, python: Program):
    body = """
        with Context().append_text("a") as ctx:
            generation = ctx.generate(max_tokens=50, stop=[])
            collecting = asyncio.create_task(generation.text())
            await asyncio.sleep(0)
            await ctx.flush()
            generation.close()
            text = await collecting
            return [text == ctx.text()[1:], len(text) < 50, await generation.text()]
    """

    assert run(lab, python, body) == [True, True, ""]


def test_the_rest_may_be_collected_after_some_steps(lab: Lab, python: Program):
    body = """
        with Context().append_text("a") as ctx:
            generation = ctx.generate(max_tokens=6, stop=[])
            first = [await anext(generation), await anext(generation)]
            return ["".join(step.text for step in first), await generation.text(), generation.tokens_generated]
    """

    assert run(lab, python, body) == ["bc", "defg", 6]


def test_a_collection_that_is_cancelled_leaves_the_conversation_as_it_stands(lab: Lab, python: Program):
    body = """
        with Context().user("q").cue() as ctx:
            generation = ctx.generate(max_tokens=50, stop=[])
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(generation.text(), 0.001)
            generation.close()
            written = ctx.seq_len
            ctx.user("next")
            return [generation.tokens_generated > 0, ctx.text()[written:]]
    """

    assert run(lab, python, "import contextlib\n" + textwrap.dedent(body)) == [
        True,
        run(
            lab,
            python,
            """
        with Context().user("q").cue() as ctx:
            async for step in ctx.generate(max_tokens=2, stop=[]):
                pass
            written = ctx.seq_len
            ctx.user("next")
            return ctx.text()[written:]
    """,
        ),
    ]
