"""WASI as programs see it, over the host's own clocks and waits."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any, cast

from pie_runner.wasm.fiber import Fiber
from pie_runner.wasm.wasi import shadowed_wasi


def test_a_poll_of_many_that_are_ready_takes_no_square_of_their_number():
    table: dict[Any, Any] = dict.fromkeys(
        [("clocks", "sleep"), ("clocks", "monotonic-now"), ("clocks", "wall-now"), ("random", "get-bytes")]
    )
    table["futures", "wait-any"] = lambda _, ids: [i for i in ids if i % 2]
    table["futures", "[method]done.id"] = lambda _, done: done
    table["futures", "[method]done.get"] = lambda _, done: None
    [poll] = [functions["poll"] for functions in shadowed_wasi(table).values() if "poll" in functions]
    pollables = [SimpleNamespace(done=i) for i in range(40_000)]

    began = time.thread_time()
    ready = poll(cast(Fiber, None), pollables)

    assert ready == list(range(1, 40_000, 2))
    assert time.thread_time() - began < 1.0
