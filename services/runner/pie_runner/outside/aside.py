"""An asyncio loop on a thread of its own, for input and output that the fibers' loop must not wait for."""

from __future__ import annotations

import asyncio
import concurrent.futures
import queue
import threading
from collections.abc import Callable, Coroutine
from functools import cached_property
from typing import Any

CLOSE_SECONDS = 5.0


class Aside:
    """Work goes there by `start` and `call`; what it has to say comes back by `post`, and is heard at the next `drain`.

    `wake` makes the fibers' loop call `drain` soon; it is called from the thread.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._said: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    @cached_property
    def _loop(self) -> asyncio.AbstractEventLoop:
        """Made at first use, and the thread with it."""
        loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=_serve, args=(loop,), name="aside", daemon=True)
        self._thread.start()
        return loop

    def start(self, work: Coroutine[Any, Any, None]) -> Callable[[], None]:
        """Run a coroutine there, which handles its own errors. Returns how to cancel it."""
        future: concurrent.futures.Future[None] = asyncio.run_coroutine_threadsafe(work, self._loop)

        def cancel() -> None:
            future.cancel()

        return cancel

    def call(self, function: Callable[[], object]) -> None:
        """Call a function there, soon."""
        self._loop.call_soon_threadsafe(function)

    def post(self, function: Callable[[], None]) -> None:
        """From there: have a function called on the fibers' loop."""
        self._said.put(function)
        self._wake()

    def drain(self) -> None:
        """On the fibers' loop: hear what was said."""
        while not self._said.empty():
            self._said.get()()

    def close(self) -> None:
        """Cancel everything, wait a few seconds for it to end, and stop."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join(CLOSE_SECONDS)


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        if tasks:
            loop.run_until_complete(asyncio.wait(tasks, timeout=CLOSE_SECONDS))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()
