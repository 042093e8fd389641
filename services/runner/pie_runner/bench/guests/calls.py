"""The guest of the benchmark in Python. `calls`: how often it asks the time; `waits`: how often it waits."""

from wit_world.imports import clocks, futures


def main(calls: int = 0, waits: int = 0) -> None:
    ask, wait, ids = clocks.monotonic_now, futures.wait_any, [1]
    for _ in range(calls):
        ask()
    for _ in range(waits):
        wait(ids)
