"""One thread for what takes long, so that the main thread keeps its links alive meanwhile."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Worker:
    """Runs one call after another. `notify` is called on the worker's thread whenever one has ended.

    The thread is a daemon: a process that must stop does not wait for a model that is still loading.
    """

    def __init__(self, notify: Callable[[], None]) -> None:
        self._notify = notify
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="pie-device", daemon=True)
        self._thread.start()

    def submit(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """The result, later."""
        future: Future[R] = Future()

        def call() -> None:
            try:
                result = function(*args, **kwargs)
            except BaseException as exc:  # noqa: BLE001 - the caller gets it from the future
                future.set_exception(exc)
            else:
                future.set_result(result)
            self._notify()

        self._calls.put(call)
        return future

    def stop(self, seconds: float) -> bool:
        """End the thread after the call it is in; False if that takes longer than so many seconds."""
        self._calls.put(None)
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _serve(self) -> None:
        while (call := self._calls.get()) is not None:
            call()
