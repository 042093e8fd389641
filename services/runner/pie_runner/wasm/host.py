"""Host functions, linked once for all programs of an engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from pie_wire.errors import LimitExceeded, PieError
from wasmtime.component import Linker

from pie_runner.wasm import ffi
from pie_runner.wasm.engine import WasmEngine
from pie_runner.wasm.hostcall import HostTable, Pending, TooMuchError
from pie_runner.wasm.types import base_name
from pie_runner.wasm.values import LONGEST_TEXT, MOST_TEXT, ROOM
from pie_runner.wasm.wasi import shadowed_wasi

if TYPE_CHECKING:
    from pie_runner.wasm.fiber import Fiber
    from pie_runner.wasm.program import Program
    from pie_runner.wasm.values import Codec, Lower

LONG_TEXTS = frozenset(
    {
        ("session", "send-file"),
        ("filesystem", "write"),
        ("filesystem", "append"),
        ("context", "[static]context.import"),
        ("http", "send"),
        ("http", "begin"),
        ("http", "[method]upload.write"),
        ("log", "stdout"),
        ("log", "stderr"),
        ("log", "write"),
    }
)
"""Functions that take files and the like as one text."""
PACKAGE = "pie:inferlet"
VERSION = "0.1.0"


class HostDefectError(Exception):
    """A host function failed in a way it does not state: a defect, logged with its cause."""


class Host:
    """The linker, and who is calling: `current` is the fiber that runs now."""

    def __init__(self, engine: WasmEngine, table: HostTable, package: str = PACKAGE, version: str = VERSION) -> None:
        """Link `table` as interfaces of `package`, plus inert WASI whose clocks and randomness come from `table`."""
        self.engine = engine
        self.current: Fiber | None = None
        self.type_ids: dict[str, int] = {}
        self.linker = Linker(engine.raw)
        self.linker.allow_shadowing = True
        self.linker.add_wasip2()
        self._handles: list[int] = []
        interfaces: dict[str, dict[str, Callable[..., object]]] = {}
        for (interface, function), implementation in table.items():
            interfaces.setdefault(f"{package}/{interface}@{version}", {})[function] = implementation
        for name, functions in (shadowed_wasi(table) | interfaces).items():
            self._link(name, functions)

    def _link(self, interface: str, functions: Mapping[str, Callable[..., object]]) -> None:
        base = base_name(interface)
        short = base.rpartition("/")[2]
        with self.linker.root() as root, root.add_instance(interface) as instance:
            for resource in sorted(_resources(interface, functions)):
                type_id = len(self.type_ids) + 1
                self.type_ids[f"{short}.{resource}"] = type_id
                self._handles.append(ffi.add_resource(instance, resource, type_id, self))
            for name, function in functions.items():
                self._handles.append(ffi.add_function(instance, name, _Entry(self, (base, name), function)))

    def running(self) -> Fiber:
        """The fiber that called."""
        if self.current is None:
            raise HostDefectError("a host function was called while no fiber runs")
        return self.current

    def drop(self, rep: int) -> None:
        """The running guest dropped one of its handles."""
        self.running().resources.drop(rep)

    def close(self) -> None:
        """Unlink. No fiber may be left."""
        self.linker.close()
        ffi.forget(self._handles)
        self._handles.clear()


def _resources(interface: str, functions: Mapping[str, object]) -> set[str]:
    """`[method]context.fork` tells of a resource `context`. Those of WASI stay wasmtime's own, but for pollables."""
    if interface.startswith("wasi:"):
        return {"pollable"} & {name.partition("]")[2].partition(".")[0] for name in functions}
    return {name.partition("]")[2].partition(".")[0] for name in functions if name.startswith("[")}


class _Entry:
    """One host function as the trampoline calls it."""

    __slots__ = ("_codec", "_function", "_host", "_key", "_most_text", "_program")

    def __init__(self, host: Host, key: tuple[str, str], function: Callable[..., object]) -> None:
        self._host = host
        self._key = key
        self._most_text = LONGEST_TEXT if (key[0].rpartition("/")[2], key[1]) in LONG_TEXTS else MOST_TEXT
        self._function = function
        # Of the program that called last, which calls next as a rule.
        self._program: Program | None = None
        self._codec: Codec

    def call(self, args: int, results: int, error: int) -> int:
        fiber = self._host.current or self._host.running()
        codec = self._codec if fiber.program is self._program else self._codec_of(fiber.program)
        resources = fiber.resources
        try:
            if codec.lift_params:
                resources.most_text = self._most_text
                if codec.has_lists:
                    resources.room = ROOM
                lifted = [lift(args + offset, resources) for lift, offset in codec.lift_params]
                answer = self._function(fiber, *lifted)
            else:
                answer = self._function(fiber)
            if isinstance(answer, Pending):
                if not answer.done:
                    answer.function = self
                    answer.results = results
                    answer.trap = error
                    return fiber.park(answer)
                answer = answer.answer()
        except PieError as exc:
            if not codec.answers_errors:
                raise
            answer = exc
        except TooMuchError as exc:
            fiber.doomed = LimitExceeded(f"The program passed too much in one host call, {self._key[1]}: {exc}.")
            raise
        except Exception as exc:
            fiber.fault = self._fault(exc)
            raise
        if codec.lower_result is not None:
            self._write(codec.lower_result, answer, results, fiber)
        return 0

    def resume(self, fiber: Fiber, pending: Pending) -> None:
        """Write the answer of a call that waited. Raises what becomes the guest's trap."""
        codec = self._codec if fiber.program is self._program else self._codec_of(fiber.program)
        try:
            answer = pending.answer()
        except PieError as exc:
            if not codec.answers_errors:
                raise
            answer = exc
        except Exception as exc:
            fiber.fault = self._fault(exc)
            raise
        if codec.lower_result is not None:
            self._write(codec.lower_result, answer, pending.results, fiber)

    def _codec_of(self, program: Program) -> Codec:
        self._codec = program.codecs[self._key]
        self._program = program
        return self._codec

    def _write(self, lower: Lower, answer: object, results: int, fiber: Fiber) -> None:
        try:
            lower(answer, results, fiber.resources)
        except Exception as exc:
            fiber.fault = self._fault(exc)
            raise

    def _fault(self, cause: BaseException) -> HostDefectError:
        fault = HostDefectError(f"host function {self._key[0]}#{self._key[1]}: {type(cause).__name__}: {cause}")
        fault.__cause__ = cause
        return fault
