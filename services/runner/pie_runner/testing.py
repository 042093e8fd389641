"""Programs as Python coroutines over the real host functions: for tests that want no Wasm but everything else.

async def main(api: Api, text: str) -> str:
    model = await api.call("model", "[static]model.load", "")
    ...
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping
from typing import TYPE_CHECKING, Any, cast

from pie_wire.errors import NotFound, PieError, ProgramError, Trapped

from pie_runner.programs import Outcome
from pie_runner.wasm.hostcall import Err, HostResource, HostTable, Ok, Pending

if TYPE_CHECKING:
    from pie_runner.process import Process
    from pie_runner.wasm.fiber import Fiber

Main = Callable[["Api", str], Coroutine[Pending, None, str]]


class CallError(Exception):
    """A host function answered with an error."""

    def __init__(self, error: Any) -> None:
        super().__init__(f"{error.code}: {error.message}")
        self.code: str = error.code
        self.retryable: bool = error.retryable


class _Wait(Awaitable[None]):
    def __init__(self, pending: Pending) -> None:
        self._pending = pending

    def __await__(self) -> Generator[Pending, None, None]:
        yield self._pending


class _KilledError(BaseException):
    """Unwinds a program that was killed by a host call of its own."""


class Api:
    """What a program calls. Resources it was given are closed when dropped, or at its end."""

    def __init__(self, task: Task, table: HostTable) -> None:
        self._task = task
        self._table = table
        self._owned: list[HostResource] = []

    async def call(self, interface: str, function: str, *arguments: Any) -> Any:
        """Call a host function.

        Raises:
            CallError: it answered `err`.
        """
        try:
            answer = self._table[interface, function](cast("Fiber", self._task), *arguments)
            if self._task.doomed is not None:
                raise _KilledError
            if isinstance(answer, Pending):
                if not answer.done:
                    self._task.parked = answer
                    await _Wait(answer)
                    self._task.parked = None
                answer = answer.answer()
        except PieError as exc:
            raise CallError(exc.info()) from exc
        if isinstance(answer, Err):
            raise CallError(answer.error)
        if isinstance(answer, Ok):
            answer = answer.value
        self._adopt(answer)
        return answer

    def _adopt(self, answer: Any) -> None:
        """Own the resources of an answer, wherever they are in it."""
        if isinstance(answer, HostResource):
            if answer not in self._owned:
                self._owned.append(answer)
        elif isinstance(answer, list | tuple):
            for part in cast("list[Any] | tuple[Any, ...]", answer):
                self._adopt(part)

    async def wait(self, resource: str, item: Any, getter: str = "get") -> Any:
        """The value of a waitable, parking until it has one. `resource` as in `futures.done`."""
        interface, name = resource.split(".")
        while True:
            value = await self.call(interface, f"[method]{name}.{getter}", item)
            if value is not None or getattr(item, "ready", False):
                return value
            await self.call("futures", "wait-any", [item.id])

    def drop(self, resource: HostResource) -> None:
        """Drop a handle."""
        self._owned.remove(resource)
        resource.close()

    def close_all(self) -> None:
        """The program is over."""
        while self._owned:
            self._owned.pop().close()


class Task:
    """The fiber of a coroutine: host functions use its `data` and `wake`."""

    def __init__(self, host: CoroutineHost, process: Process, main: Main, on_exit: Callable[[Outcome], None]) -> None:
        self.data = process
        self.parked: Pending | None = None
        self._host = host
        self._on_exit = on_exit
        self._api = Api(self, host.table)
        self._coroutine: Coroutine[Pending, None, str] | None = main(self._api, process.input)
        self._running = False
        self.doomed: PieError | None = None
        """Why it ends at the host call it is making."""

    def wake(self) -> None:
        """A parked call has its answer."""
        self._host.ready.append(self)

    def kill(self, reason: PieError) -> None:
        """End it where it stands."""
        if self._running:
            self.doomed = reason
        else:
            self._end(reason)

    def step(self) -> None:
        """Run until it parks or ends."""
        while self._coroutine is not None:
            try:
                self._running = True
                pending = self._coroutine.send(None)
            except _KilledError:
                self._end(self.doomed or Trapped("it was killed"))
            except StopIteration as stop:
                self._end(stop.value)
            except CallError as exc:
                self._end(ProgramError(str(exc), cause=exc.code))
            except ProgramError as exc:
                self._end(exc)
            except Exception as exc:  # noqa: BLE001 - a program's failure is its outcome
                self._end(Trapped(f"{type(exc).__name__}: {exc}"))
            else:
                if not pending.done:
                    return
            finally:
                self._running = False

    def _end(self, outcome: Outcome) -> None:
        coroutine, self._coroutine = self._coroutine, None
        if coroutine is None:
            return
        coroutine.close()
        if self.parked is not None:
            self.parked.abandon()
        self._api.close_all()
        self._on_exit(outcome)


class CoroutineHost:
    """A ProgramHost; programs go by the name in their ProgramRef. Call `run_ready` once a turn."""

    def __init__(self, table: HostTable, programs: Mapping[str, Main]) -> None:
        self.table = table
        self.programs = dict(programs)
        self.ready: deque[Task] = deque()

    def start(
        self,
        process: Process,
        artifact: Callable[[], bytes],
        on_running: Callable[[], None],
        on_exit: Callable[[Outcome], None],
    ) -> Task:
        main = self.programs.get(process.ref.name)
        if main is None:
            raise NotFound(f"no program is called {process.ref.name!r}")
        artifact()
        on_running()
        task = Task(self, process, main, on_exit)
        self.ready.append(task)
        return task

    def run_ready(self) -> None:
        """Run everything that is ready now."""
        for _ in range(len(self.ready)):
            self.ready.popleft().step()
