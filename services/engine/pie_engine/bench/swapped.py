"""What it costs to move pages between the pool and host memory."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from pie_engine.bench.figure import Figure
from pie_engine.bench.stand import Stand
from pie_engine.bench.traffic import Decodes, Tokens
from pie_engine.passes.build import build
from pie_engine.passes.page_moves import Moves

_PAGES = 64


def swap_figures(stand: Stand, rounds: int) -> Iterator[Figure]:
    """64 pages with real KV, out and back, as a pass that does nothing else."""
    size = stand.core.pool.page_size
    # An engine that has just started takes its first pages: these, which then have KV in them.
    Decodes(stand, Tokens(stand.model.info.vocab_size, "swap"), 1, _PAGES * size, steps=2)
    out = back = [(page, page) for page in range(_PAGES)]
    samples: dict[str, list[float]] = {"out": [], "back": []}
    for number in range(rounds * 4 + 1):
        for name, moves in (("out", Moves(out, ())), ("back", Moves((), back))):
            batch = build([], page_size=size, scratch_page=stand.core.pool.total, moves=moves)
            stand.on_device_thread(stand.execute, batch)
            if number:  # memory is taken at first use
                samples[name].append(moves.seconds * 1000.0)
    for name, values in samples.items():
        yield Figure(f"swap-{_PAGES}-pages-{name}", round(statistics.median(values), 4), "ms")
