"""asyncio over the host: an event loop whose selector is `futures.wait-any`."""

from __future__ import annotations

import asyncio
from asyncio import base_events
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

from wit_world.imports import clocks, futures

T = TypeVar("T")

_POLL_EVERY = 16


class Waitable(Protocol):
    """A host resource that `wait-any` knows by its id and that is got once."""

    def id(self) -> int: ...

    def get(self) -> Any: ...


class HostSelector:
    """Maps ids of waitables to the asyncio futures that wait for them: several tasks may wait for one."""

    def __init__(self) -> None:
        self.waiting: dict[int, list[asyncio.Future[None]]] = {}
        self._busy = 0

    def add(self, id_: int, future: asyncio.Future[None]) -> None:
        self.waiting.setdefault(id_, []).append(future)

    def discard(self, id_: int, future: asyncio.Future[None]) -> None:
        futures = self.waiting.get(id_)
        if futures is not None and future in futures:
            futures.remove(future)
            if not futures:
                del self.waiting[id_]

    def select(self, timeout: float | None) -> list[asyncio.Future[None]]:
        """Wait for waitables, at most `timeout` seconds. With timeout 0 the host is asked only now and then."""
        if timeout is not None and timeout <= 0:
            self._busy += 1
            if self._busy < _POLL_EVERY or not self.waiting:
                return []
        self._busy = 0
        ids = list(self.waiting)
        if timeout is None:
            if not ids:
                raise RuntimeError("deadlock: every task waits for another one, and nothing is asked of the host")
            ready = futures.wait_any(ids)
        else:
            with clocks.sleep(max(0, round(timeout * 1e9))) as timer:
                ready = futures.wait_any([*ids, timer.id()])
        return [future for id_ in ready for future in self.waiting.pop(id_, ())]

    def close(self) -> None:
        self.waiting.clear()

    def get_map(self) -> dict[int, object]:
        return {}


class HostLoop(base_events.BaseEventLoop):
    """One thread, no sockets, no subprocesses: what a guest has."""

    def __init__(self) -> None:
        super().__init__()
        self._selector = HostSelector()

    @property
    def selector(self) -> HostSelector:
        return self._selector

    @property
    def is_alone(self) -> bool:
        """Whether the running task is all there is: nothing else is ready, timed or waiting."""
        return not self._ready and not self._scheduled and not self._selector.waiting

    def _process_events(self, event_list: list[asyncio.Future[None]]) -> None:
        for future in event_list:
            if not future.done():
                future.set_result(None)

    def _write_to_self(self) -> None:
        pass

    def run_in_executor(self, executor: object, func: Callable[..., T], *args: object) -> asyncio.Future[T]:
        """There are no threads: the function runs here and now."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as exc:  # noqa: BLE001 - it belongs to whoever awaits the future
            future.set_exception(exc)
        return future

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - asyncio's
        pass


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end on a fresh loop."""
    with asyncio.Runner(loop_factory=HostLoop) as runner:
        return runner.run(coroutine)


def is_alone() -> bool:
    """Whether the running task may sleep in a host call: nothing else in this program could run meanwhile."""
    loop = asyncio.get_running_loop()
    return isinstance(loop, HostLoop) and loop.is_alone


async def ready(id_: int) -> None:
    """Suspend this task until the waitable of this id has something to get."""
    loop = asyncio.get_running_loop()
    if not isinstance(loop, HostLoop):
        raise RuntimeError("host futures can be awaited on the inferlet event loop only")
    if loop.is_alone:
        # Nothing else could run meanwhile: a turn of the loop would change nothing and cost as much as a token.
        futures.wait_any([id_])
        return
    future = loop.create_future()
    loop.selector.add(id_, future)
    try:
        await future
    finally:
        loop.selector.discard(id_, future)


async def result(waitable: Waitable) -> Any:
    """The result of a waitable that is got once: its WIT result, when it is there."""
    while (got := waitable.get()) is None:
        await ready(waitable.id())
    return got
