"""One inferlet: an instance of a program on its own stack, run in slices by the driver."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

from pie_wire.errors import BadProgram, InternalError, Overloaded, PieError, ProgramError

from pie_runner.process_limits import of_runner
from pie_runner.wasm import ffi
from pie_runner.wasm.engine import SLICE_TICKS
from pie_runner.wasm.failures import failure_of
from pie_runner.wasm.ffi import WasmError
from pie_runner.wasm.hostcall import Err, Pending
from pie_runner.wasm.program import RUN, Program
from pie_runner.wasm.resources import ResourceTable
from pie_runner.wasm.values import LONGEST_TEXT, Codec

if TYPE_CHECKING:
    from pie_runner.wasm.driver import Driver

_RUN = Codec(RUN)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one instance may use."""

    memory_bytes: int = 512 * 1024 * 1024
    """Of the one memory of a component that may hold something: see `memories`."""
    cpu_seconds: float = 0.0
    """Processor time, its host calls included; 0 is no limit. Looked at after every slice."""
    where: Callable[[str], str] = of_runner
    """Where the operator sets `memory` and `cpu_seconds`."""
    table_elements: int = 65_536
    """Of each table, of eight bytes. The interpreter of Python has 6,000 functions in one."""
    instances: int = 64
    """Of core modules. Python has 14."""
    tables: int = 8
    """TypeScript has three."""
    memories: int = 8
    """With those that stay empty. TypeScript has three."""

    @property
    def of_store(self) -> tuple[int, int, int, int, int]:
        """In the order that `ffi.Store` takes."""
        return self.memory_bytes, self.table_elements, self.instances, self.tables, self.memories


class State(Enum):
    """Where a fiber is. `READY`, `BACKGROUND` and `RESTING` are the driver's queues."""

    READY = auto()
    BACKGROUND = auto()
    RESTING = auto()
    RUNNING = auto()
    PARKED = auto()
    FINISHED = auto()


# Looked at on every turn: a member of an enumeration is found six times slower than a name.
READY, BACKGROUND, RESTING, RUNNING, PARKED, FINISHED = State


Outcome = str | PieError
"""What `run` returned, or why it did not."""


class Tail:
    """The end of what a guest wrote to a WASI stream, and where it goes on to."""

    __slots__ = ("_forward", "text")

    LIMIT = 4096

    def __init__(self, forward: Callable[[bytes], None] | None) -> None:
        self._forward = forward
        self.text = ""

    def write(self, data: bytes) -> None:
        """Take what the guest wrote."""
        self.text = (self.text + data.decode("utf-8", "replace"))[-self.LIMIT :]
        if self._forward is not None:
            self._forward(data)

    def disconnect(self) -> None:
        """The guest is gone: nobody is to be kept for its output."""
        self._forward = None


class Fiber:
    """Made by `Driver.spawn`. `data` belongs to whoever spawned it: host functions find their state there."""

    def __init__(
        self,
        driver: Driver,
        program: Program,
        text: str,
        data: object,
        on_exit: Callable[[Fiber, Outcome], None],
        limits: Limits,
        on_output: Callable[[Fiber, str, bytes], None] | None,
    ) -> None:
        self.driver = driver
        self.program = program
        self.data = data
        self.on_exit = on_exit
        self.state = READY
        self.parked: Pending | None = None
        """The host call that waits for its answer."""
        self.fault: BaseException | None = None
        """The last defect of a host function called by this fiber."""
        self.doomed: PieError | None = None
        """Set when the fiber is killed by, or because of, a host function it is calling."""
        self.cpu_seconds = 0.0
        """Processor time used."""
        self.last_seconds = 0.0
        """The same in its last slice."""
        self.rests_until = 0.0
        """When it may run next, by `time.perf_counter`; 0 unless it had to rest, or waits to be started."""
        self.limits = limits
        self._text = text
        self._stderr = Tail(None if on_output is None else lambda raw: on_output(self, "stderr", raw))
        stdout = Tail(None if on_output is None else lambda raw: on_output(self, "stdout", raw))
        self._store = ffi.Store(driver.host.engine.address, limits.of_store, (stdout, self._stderr))
        self._context = self._store.context
        ffi.set_slice(self._context, SLICE_TICKS)
        ffi.yield_at_deadline(self._context, SLICE_TICKS)
        self.resources = ResourceTable(self._context, driver.host.type_ids)
        self._instance: ffi.Instance | None = None
        self._call: ffi.Call | None = None
        self._args = ffi.Values(1)
        self._result = ffi.Values(1)
        self._flag = ffi.Flag()

    @property
    def finished(self) -> bool:
        """Whether it has an outcome; its resources are closed and its memory is freed then."""
        return self.state is FINISHED

    def wake(self) -> None:
        """Its parked call has an answer."""
        if self.state is PARKED:
            self.driver.make_ready(self)

    def park(self, pending: Pending) -> int:
        """A host call waits. Returns the address of its flag."""
        self.parked = pending
        return self._flag.lower()

    def _resume(self, pending: Pending) -> None:
        """Give the guest the answer of the call that waited."""
        self.parked = None
        try:
            pending.function.resume(self, pending)
        except Exception as exc:  # noqa: BLE001 - it becomes the guest's trap
            ffi.fail_call(pending.trap, exc)
        self._flag.raise_()

    def run_slice(self) -> Outcome | None:
        """Run until done (its outcome), parked or out of its slice (None). Only the driver calls this."""
        parked = self.parked
        if parked is not None:
            if not parked.done:
                return None
            self._resume(parked)
        ffi.set_slice(self._context, SLICE_TICKS)
        try:
            if self._call is None:
                host = self.driver.host
                if self.driver.mappings is not None:
                    self.driver.mappings.take()
                self._call, self._instance = ffi.instantiate(host.linker, self._context, self.program.component)
            while self._call.poll():
                if self._result.kind == ffi.RESULT:
                    return self._outcome()
                self._start_run()
        except WasmError as exc:
            return self._failure(exc)
        except Overloaded as exc:
            return exc
        return None

    def _start_run(self) -> None:
        if self._call is not None:
            self._call.delete()
        if self._instance is None:
            raise InternalError("A fiber without an instance cannot run.")
        func = ffi.exported_function(self._context, self._instance, "run")
        if func is None:
            raise BadProgram("The component does not export `run`.")
        _RUN.lower_params[0](self._text, self._args.at, self.resources)
        self._call = ffi.call(self._context, func, self._args, self._result)

    def _outcome(self) -> Outcome:
        lift = _RUN.lift_result
        self.resources.most_text = LONGEST_TEXT
        answer = lift(self._result.at, self.resources) if lift is not None else None
        if isinstance(answer, Err):
            return ProgramError(str(answer.error))
        return str(answer.value) if answer is not None else ""

    def _failure(self, error: WasmError) -> PieError:
        if self.doomed is not None:
            return self.doomed
        if self.fault is not None:
            return InternalError(f"The program was stopped by a defect of the host: {self.fault}")
        if self._instance is not None and self._result.kind == ffi.BOOL and "matching implementation" in error.text:
            return BadProgram(error.text.strip())
        return failure_of(error, self._stderr.text)

    def release(self) -> None:
        """Free everything the fiber holds, in whatever state it is (but not while it runs)."""
        self.state = FINISHED
        parked, self.parked = self.parked, None
        if self._call is not None:
            self._call.delete()
        try:
            if parked is not None:
                parked.abandon()
        finally:
            self._args.delete()
            self._result.delete()
            self.resources.close_all()
            self._store.close()
            self._stderr.disconnect()
