"""What guessing from the context itself gains where a text repeats itself."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from pie_wire.errors import InternalError
from pie_wire.messages import engine as wire

from pie_engine.bench.figure import Figure
from pie_engine.bench.stand import Stand
from pie_engine.bench.traffic import GREEDY, Tokens

_PHRASE = 32
_TIMES = 16
_NEW = 96
_NGRAM = 3


def speculation_figures(stand: Stand, rounds: int) -> Iterator[Figure]:
    """A greedy run of 96 tokens behind a phrase of 32 tokens said 16 times, without guesses and with."""
    prompt = Tokens(stand.model.info.vocab_size, "speculation").draw(_PHRASE) * _TIMES
    context = stand.create(prompt)
    stand.send(wire.Flush(context, 0))
    stand.settle()
    ways = {"plain": wire.Speculation(), "ngram": wire.Speculation(ngram=_NGRAM)}
    times: dict[str, list[float]] = {name: [] for name in ways}
    steps: dict[str, int] = {}
    for _ in range(rounds):
        for name, speculation in ways.items():
            took, steps[name] = _run(stand, context, speculation)
            times[name].append(took)
    plain, guessed = (statistics.median(times[name]) for name in ways)
    yield Figure("run-96-plain", round(plain, 3), "ms")
    yield Figure("run-96-ngram", round(guessed, 3), "ms")
    yield Figure("ngram-speedup", round(plain / guessed, 3), "x")
    yield Figure("ngram-tokens-per-step", round(_NEW / steps["ngram"], 3), "tokens")


def _run(stand: Stand, context: int, speculation: wire.Speculation) -> tuple[float, int]:
    """Milliseconds and steps of a run, which is taken back afterwards."""
    run = stand.new_id()
    stand.send(wire.OpenRun(context, 0, run, GREEDY, 0, [], _NEW, _NEW, speculation))
    took, steps = 0.0, 0
    while run not in stand.ended:
        timing = stand.step()
        if not timing.rows:
            raise InternalError("the engine had nothing to do before its run had ended")
        took += timing.total
        steps += 1
    stand.send(wire.CloseRun(context, run, 0))
    stand.settle()
    return took, steps
