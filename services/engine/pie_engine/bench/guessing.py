"""What guesses gain and what a grammar costs: the same greedy runs with and without, in turns."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

from pie_wire.errors import Unsupported
from pie_wire.messages import engine as wire
from tokenizers import Tokenizer

from pie_engine.bench.figure import Figure
from pie_engine.bench.stand import Stand

_TOKENS = 96
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
    """Greedy runs of 96 tokens, alone: n-gram guesses over none for two prompts; a grammar over none."""
    text = stand.model.tokenizer_files().get("tokenizer.json")
    if text is None:
        raise Unsupported("prompts and grammars need a model with a tokenizer.json")
    tokenizer = Tokenizer.from_str(text.decode())
    for name, prompt in PROMPTS.items():
        ids = tokenizer.encode(prompt).ids
        pairs = [(_run(stand, ids), _run(stand, ids, speculation=_LOOKUP)) for _ in range(rounds + 1)][1:]
        # A step more in which the run's end is told counts for neither.
        yield Figure(f"ngram-{name}-tokens-per-step", round(_TOKENS / pairs[0][1][1], 2), "tokens")
        ratios = [plain / guessed for (plain, _), (guessed, _) in pairs]
        yield Figure(f"ngram-{name}-speed-up", round(statistics.median(ratios), 2), "x")
    ids = tokenizer.encode(PROMPTS["prose"]).ids
    grammar = [_run(stand, ids, grammar=_TEXT)[0] / _run(stand, ids)[0] for _ in range(rounds + 1)][1:]
    yield Figure("grammar-over-none", round(statistics.median(grammar), 3), "x")


def _run(
    stand: Stand,
    prompt: Sequence[int],
    speculation: wire.Speculation | None = None,
    grammar: wire.Grammar | None = None,
) -> tuple[float, int]:
    """Milliseconds of a run's steps behind its prompt, and how many steps had rows."""
    context, run = stand.create(prompt), stand.new_id()
    stand.send(wire.Flush(context, 0))
    stand.settle()
    stand.send(
        wire.OpenRun(
            context,
            0,
            run,
            wire.SamplerSpec(),
            0,
            [],
            _TOKENS,
            _TOKENS,
            speculation=speculation or wire.Speculation(),
            grammar=grammar,
        )
    )
    spent, steps = 0.0, 0
    while run not in stand.ended:
        timing = stand.step()
        if timing.rows:
            spent += timing.total
            steps += 1
    stand.send(wire.CloseRun(context, run, _TOKENS), wire.Drop(context))
    stand.settle()
    return spent, steps
