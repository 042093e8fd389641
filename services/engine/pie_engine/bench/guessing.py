"""What guesses gain and what a grammar costs: the same greedy runs with and without, in turns."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pie_wire.errors import Unsupported
from pie_wire.messages import engine as wire
from tokenizers import Tokenizer

from pie_engine.bench.figure import Figure
from pie_engine.bench.stand import Stand

_TOKENS = 96
_TOGETHER = 16
_LOOKUP = wire.Speculation(ngram=3, drafts=8)
_TEXT = wire.Grammar("regex", r"(?s:.)*")
_ITEMS = ("apples", "pears", "a dozen eggs", "two loaves of rye bread", "olive oil", "green tea", "salt", "basil")
_LIST = "\n".join(f"{number}. {item}, from the market on the old square" for number, item in enumerate(_ITEMS, 1))
PROMPTS = {
    "copy": f"The shopping list:\n{_LIST}\n\nThe same shopping list once more, word for word:\n",
    "prose": "The old lighthouse keeper had not spoken to anybody since the storm, when one morning",
}
"""Text that is in the prompt already, and text that is not."""


def guessing_figures(stand: Stand, rounds: int) -> Iterator[Figure]:
    """Greedy runs of 96 tokens, alone: n-gram guesses over none for two prompts; a grammar over none. Then 16 runs at
    once that draw at temperature 1, where guesses are seldom right and the others pay for their rows."""
    text = stand.model.tokenizer_files().get("tokenizer.json")
    if text is None:
        raise Unsupported("prompts and grammars need a model with a tokenizer.json")
    tokenizer = Tokenizer.from_str(text.decode())
    for name, prompt in PROMPTS.items():
        ids = tokenizer.encode(prompt).ids
        pairs = [(_run(stand, ids), _run(stand, ids, speculation=_LOOKUP)) for _ in range(rounds + 1)][1:]
        # A step more in which the run's end is told counts for neither.
        yield Figure(f"ngram-{name}-tokens-per-step", round(_TOKENS / pairs[0][1][1], 2), "tokens")
        yield Figure(f"ngram-{name}-speed-up", _gain(pairs), "x")
    ids = tokenizer.encode(PROMPTS["prose"]).ids
    grammar = [(_run(stand, ids, grammar=_TEXT), _run(stand, ids)) for _ in range(rounds + 1)][1:]
    yield Figure("grammar-over-none", _gain(grammar), "x")
    many = _Asked(count=_TOGETHER, tokens=2 * _TOKENS, sampler=wire.SamplerSpec(temperature=1.0))
    crowds = [(_run(stand, ids, many), _run(stand, ids, many, speculation=_LOOKUP)) for _ in range(rounds + 1)][1:]
    yield Figure(f"ngram-prose-b{_TOGETHER}-t1-speed-up", _gain(crowds), "x")


@dataclass(frozen=True)
class _Asked:
    """`count` runs at once, of so many tokens each, all behind one prompt with seeds of their own."""

    count: int = 1
    tokens: int = _TOKENS
    sampler: wire.SamplerSpec = field(default_factory=wire.SamplerSpec)


def _run(
    stand: Stand,
    prompt: Sequence[int],
    asked: _Asked = _Asked(),
    speculation: wire.Speculation | None = None,
    grammar: wire.Grammar | None = None,
) -> tuple[float, int]:
    """Milliseconds of the runs' steps behind their prompt, and how many steps had rows."""
    contexts = [stand.create(prompt) for _ in range(asked.count)]
    stand.send(*(wire.Flush(context, 0) for context in contexts))
    stand.settle()
    runs = [stand.new_id() for _ in contexts]
    for seed, (context, run) in enumerate(zip(contexts, runs, strict=True)):
        stand.send(
            wire.OpenRun(
                context,
                0,
                run,
                asked.sampler,
                seed,
                [],
                asked.tokens,
                asked.tokens,
                speculation=speculation or wire.Speculation(),
                grammar=grammar,
            )
        )
    spent, steps = 0.0, 0
    while not stand.ended.issuperset(runs):
        timing = stand.step()
        if timing.rows:
            spent += timing.total
            steps += 1
    for context, run in zip(contexts, runs, strict=True):
        stand.send(wire.CloseRun(context, run, asked.tokens), wire.Drop(context))
    stand.settle()
    return spent, steps


def _gain(pairs: Sequence[tuple[tuple[float, int], tuple[float, int]]]) -> float:
    """Time of the first over that of the second: the median of all pairs."""
    return round(statistics.median(first / second for (first, _), (second, _) in pairs), 3)
