"""What a program asks of generation gives the same whether the engine decodes ahead, in lockstep, or pass by pass."""

from __future__ import annotations

from pathlib import Path

from e2e_stack import Stack

PROGRAM = """
import asyncio

from inferlet import *

HOT = Sampler(
    temperature=0.9, top_p_=0.95, top_k_=40, min_p_=0.001, typical_p=0.98,
    repetition_penalty=1.1, presence_penalty=0.1, frequency_penalty=0.05, min_tokens=5,
)
PROMPT = "Once upon a time there was"
COUNT = 24


async def run(window, **options):
    with Context().append_text(PROMPT) as ctx:
        gen = ctx.generate(max_tokens=COUNT, seed=11, window=window, **options)
        steps = [step async for step in gen]
        text = "".join(step.text for step in steps)
        probes = [[round(value, 3) for value in answers] for step in steps for answers in step.probes]
        return [ctx.tokens, text, gen.finish_reason, probes]


async def passes(sampler, stops):
    with Context().append_text(PROMPT) as ctx:
        start = ctx.seq_len
        while ctx.seq_len - start < COUNT:
            ask = ctx.forward()
            handle = ask.sample([0], sampler, 11, start=start, stop_ids=stops)
            token = (await ask.execute()).token(handle)
            if token in stops:
                break
            ctx.append([token])
        return ctx.tokens


async def by_hand():
    # Greedy under a grammar, by rows that stay in the host.
    with Context().append_text(PROMPT) as ctx:
        matcher = Grammar(GRAMMAR, ctx.model).matcher()
        while not matcher.terminated:
            ask = ctx.forward()
            handle = ask.probe(0, Resident())
            with (await ask.execute()).row(handle) as row:
                token = row.mask(matcher.mask()).argmax()
            matcher.accept([token])
            if not matcher.terminated or token not in ctx.model.eos_ids:
                ctx.append([token])
        return ctx.tokens


async def main(grammar: str, stop: str):
    global GRAMMAR
    GRAMMAR = Regex(grammar)
    stops = Context().model.stop_ids
    plain = await run(None, sampler=HOT)
    found = {
        "samplers": [plain[:3], (await run(1, sampler=HOT))[:3]],
        "passes": [plain[0], await passes(HOT, stops)],
        "guesses": [plain[:3], (await run(None, sampler=HOT, speculation=Speculation(ngram=2)))[:3]],
        "stops": [await run(window, sampler=Sampler.greedy(), stop=[stop]) for window in (None, 1)],
        "grammars": [await run(window, sampler=Sampler.greedy(), grammar=GRAMMAR) for window in (None, 1)],
        "probes": [await run(window, sampler=HOT, probes=[Entropy()]) for window in (None, 1)],
    }
    found["by hand"] = [found["grammars"][0][0], await by_hand()]
    ctx = Context().append_text(PROMPT)
    start = ctx.seq_len
    greedy = await ctx.fork().generate(Sampler.greedy(), max_tokens=4, stop=[]).tokens()
    found["verified"] = [greedy, await ctx.verify(greedy[:3])]
    return found
"""


def test_stream_lockstep_and_passes_agree(stack: Stack, kind: str, tmp_path: Path):
    path = tmp_path / "ways.py"
    path.write_text(PROGRAM)
    said = {"scripted": ("[0-9]{2} bottles", " of"), "real": (" a [a-z]{3,6} (girl|boy)", " a ")}[kind]

    with stack.client() as client:
        found = client.run_file(path, {"grammar": said[0], "stop": said[1]}).result(120)
    stack.check_quiet()

    for ways in found.values():
        assert ways[0] == ways[1]
    _, text, reason, _ = found["stops"][0]
    assert said[1] not in text
    assert reason == found["grammars"][0][2] == "stop"
    assert len(found["probes"][0][3]) == 24
