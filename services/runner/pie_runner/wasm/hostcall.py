"""The contract between host functions and the fibers that call them.

A host function is a plain callable in a table `{(interface, function): callable}`. Interfaces go by their short WIT
name (`"context"`), functions by the name a component imports (`"wait-any"`, `"[method]context.fork"`,
`"[static]context.create"`, `"[constructor]conversation"`). It is called on the event-loop thread as
`function(fiber, *arguments)` and must not block.

| WIT type | Python, both ways |
|---|---|
| integers, floats, bool, char | int, float, bool, str |
| string | str (UTF-8 as bytes is accepted: large texts are then copied once less) |
| `list<u8>` | bytes (any buffer is accepted) |
| other lists | list (any sequence; number lists also accept numpy arrays) |
| record | a named tuple with snake_case fields; any object with these attributes is accepted |
| tuple | tuple |
| variant | `Case(tag, value)` |
| enum | str |
| option | the value or None |
| result | `Ok(value)` or `Err(error)`; a bare value is accepted as `Ok`, a PieError as `Err` |
| own, borrow | the Python object that the host function returned when the resource was made |

Returning a `Pending` parks the fiber until it is resolved. Raising a PieError from a function whose result is a
`result` or an `option` of one answers `err(error)`; `TooMuchError` ends the program with `limit_exceeded`; any other
exception is a defect of the host: it traps the guest and is logged.

A host object that a function returns as `own` belongs to the fiber: when the guest drops its handle, or the fiber ends
in whatever way, the object's `close()` is called, exactly once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from pie_runner.wasm.fiber import Fiber


class Ok(NamedTuple):
    """The success of a WIT result."""

    value: object = None


class Err(NamedTuple):
    """The failure of a WIT result."""

    error: object = None


class Case(NamedTuple):
    """One case of a WIT variant."""

    tag: str
    value: object = None


@runtime_checkable
class HostResource(Protocol):
    """What a host function may return as `own`."""

    def close(self) -> None:
        """Release what stands behind the handle. Called once; must not raise."""
        ...


class TooMuchError(Exception):
    """A call passed more than any call may. It ends the program with `limit_exceeded`: the call has held up the loop
    already, and would again."""


class Resumable(Protocol):
    """A host function that knows how to write its answer later."""

    def resume(self, fiber: Fiber, pending: Pending) -> None:
        """Write the answer of a call that is parked with this function. Raises what becomes the guest's trap."""
        ...


class Pending:
    """The answer of a host function that is not known yet.

    Resolve it once, on the loop thread; later answers are ignored.

    When the fiber ends first, `on_abandon` is called instead (if given) so that the owner can forget the request.
    """

    __slots__ = ("convert", "done", "error", "fiber", "function", "on_abandon", "result", "results", "trap")

    function: Resumable
    """The call that waits for this answer; with the next two set when it is parked."""
    results: int
    """Where the answer goes (an address of the library)."""
    trap: int
    """Where an error of the host goes."""

    def __init__(self, fiber: Fiber, on_abandon: Callable[[], None] | None = None) -> None:
        self.fiber = fiber
        self.on_abandon = on_abandon
        self.done = False
        self.result: object = None
        self.error: BaseException | None = None
        self.convert: Callable[[object], object] | None = None
        """Applied to the result when it is delivered: for host functions built on other host functions."""

    def resolve(self, result: object = None) -> None:
        """Answer the call; the fiber becomes ready."""
        if not self.done:
            self.done = True
            self.result = result
            self.fiber.wake()

    def fail(self, error: BaseException) -> None:
        """Answer with an error, as if the host function had raised it."""
        if not self.done:
            self.done = True
            self.error = error
            self.fiber.wake()

    def answer(self) -> object:
        """What the call returns, once it is done. Raises the error that it was answered with."""
        if self.error is not None:
            raise self.error
        return self.result if self.convert is None else self.convert(self.result)

    def abandon(self) -> None:
        """The fiber is gone: nobody will read the answer. One that has come, and is a resource, is closed; one that is
        still to be made (`convert`) never is."""
        if not self.done or self.convert is not None:
            self.done = True
            if self.on_abandon is not None:
                self.on_abandon()
            return
        answer = self.result.value if isinstance(self.result, Ok) else self.result
        self.result = None
        if isinstance(answer, HostResource):
            answer.close()


HostFunction = Callable[..., object]
HostTable = Mapping[tuple[str, str], HostFunction]
