"""How long a fork of a 1,024-token context takes in the engine's books. Run as a program; prints microseconds."""

from __future__ import annotations

import sys
import time
from statistics import median

from conftest import make_bench
from pie_wire.messages import engine as wire


def main() -> None:
    bench = make_bench(pages=128, page_size=16)
    parent = bench.create([i % 97 for i in range(1024)])
    bench.send(wire.Flush(parent, 0))
    bench.settle()
    cache = bench.core._cache  # pyright: ignore[reportPrivateUsage]
    context = next(iter(bench.core._table.contexts))  # pyright: ignore[reportPrivateUsage]
    took: list[float] = []
    for _ in range(2000):
        child = type(context)(0, context.link, "p", "local", context.use)
        started = time.perf_counter()
        cache.fork(context, child, 1024)
        took.append(time.perf_counter() - started)
        cache.trim(child, 0)
    sys.stdout.write(f"fork of 1,024 tokens: {median(took) * 1e6:.1f} us (median of {len(took)})\n")


if __name__ == "__main__":
    main()
