"""Worker threads for what would hold up the loop; their results come back on the loop."""

from __future__ import annotations

import queue
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

Then = Callable[[object, Exception | None], None]


class Workers:
    """An `Offload` over threads. `wake` makes the loop call `drain`; it is called from the threads."""

    def __init__(self, threads: int, wake: Callable[[], None], name: str) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._done: queue.SimpleQueue[tuple[Then, object, Exception | None]] = queue.SimpleQueue()
        self._wake = wake

    def __call__(self, work: Callable[[], object], then: Then) -> None:
        self._pool.submit(self._run, work, then)

    def drain(self) -> None:
        """Hand over what is done."""
        while not self._done.empty():
            then, result, error = self._done.get()
            then(result, error)

    def close(self) -> None:
        """Start nothing more; what runs is left to end by itself."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _run(self, work: Callable[[], object], then: Then) -> None:
        try:
            result, error = work(), None
        except Exception as exc:  # noqa: BLE001 - it is the answer
            result, error = None, exc
        self._done.put((then, result, error))
        self._wake()
