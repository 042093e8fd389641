"""One process: a program with its events, messages, waitables and contexts. Freed all at once at its end."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import msgspec
from pie_wire.capabilities import Capabilities
from pie_wire.errors import ErrorInfo, LimitExceeded, PieError, ProgramError, TooLarge
from pie_wire.file_names import PART_BYTES
from pie_wire.hub import Scope
from pie_wire.messages.common import MAX_EVENT_BYTES, Account, EventKind, FilePart, ProgramRef
from pie_wire.messages.runner import Start
from pie_wire.texts import byte_size

from pie_runner.draws import Draws
from pie_runner.events import EventLog
from pie_runner.file_box import FileBox
from pie_runner.limits import Usage
from pie_runner.mailbox import Mailbox
from pie_runner.outside.process_outside import ProcessOutside
from pie_runner.waitables import Waitables
from pie_runner.wasm.hostcall import Pending

if TYPE_CHECKING:
    from pie_runner.children import Child
    from pie_runner.context_state import ContextState
    from pie_runner.facilities import Facilities
    from pie_runner.programs import Outcome, RunningProgram
    from pie_runner.wasm.fiber import Fiber

State = Literal["fetching", "starting", "running", "ended"]


class Started(msgspec.Struct, frozen=True):
    """JSON text of the `started` event. `draws` is the key (hex) of all randomness that the program sees."""

    program: str
    runner: str
    draws: str


class Watcher(Protocol):
    """Whoever sends a process's events on."""

    def written(self, process: Process) -> None:
        """It has new events."""
        ...

    def ended(self, process: Process) -> None:
        """Its terminal event is written."""
        ...


_Output = tuple[EventKind, str, bytes]


@dataclass(slots=True, eq=False)
class _Parked:
    """Output that waits for room, and what to do when it has been written."""

    events: deque[_Output]
    then: Callable[[], None]


class Process:
    """See the module's text. Exactly one terminal event is ever written."""

    def __init__(self, start: Start, scope: Scope, facilities: Facilities, watcher: Watcher, key: bytes) -> None:
        self.pid = start.pid
        self.ref: ProgramRef = start.program
        self.input = start.input
        self.filename = start.filename
        self.account: Account = start.account
        self.capabilities: Capabilities = start.capabilities
        self.scope = scope
        self.facilities = facilities
        self.state: State = "fetching"
        self.events = EventLog()
        self.waitables = Waitables()
        tenant = facilities.tenants.enter(scope.tenant)
        limits = tenant.process_limits
        self.usage = Usage(limits, facilities.hub.clock, tenant)
        self.mailbox = Mailbox(self.waitables, limits.messages, limits.message_bytes, limits.where)
        self.files = FileBox(self.waitables, limits, facilities.hub.clock)
        self.outside = ProcessOutside(start, scope, facilities.outside, self.waitables, facilities.hub, limits)
        self.offload = facilities.threads.of(scope.tenant)
        """For work beside the loop."""
        self.draws = Draws(key)
        self.contexts: dict[ContextState, None] = {}
        self.children: dict[str, Child] = {}
        """Those whose end is not known yet, by pid."""
        self.near = start.near
        """The engine that is to be its home, if that serves the model."""
        self.homes: dict[str, str] = {}
        """Name of the home engine by model."""
        self.program: RunningProgram | None = None
        self.cause = ""
        """Code of the host's error that the program's failure follows from, as it says."""
        self.stop_fetching: Callable[[], None] = lambda: None
        self.log_second = 0.0
        self.log_lines = 0
        """Lines written to the operator's log in that second."""
        self._drops = start.on_full == "drop"
        self._cancel_deadline: Callable[[], None] = lambda: None
        self._watcher = watcher
        self._parked: deque[_Parked] = deque()
        """In the order of the calls: one of the program, and one of each run that is drained to the client."""

    @property
    def title(self) -> str:
        """`name@version`, or the file's name."""
        return f"{self.ref.name}@{self.ref.version}" if self.ref.version else (self.ref.name or self.filename)

    # -- life

    def running(self) -> None:
        """The program is about to make its first step."""
        if self.state in ("fetching", "starting"):
            self.state = "running"
            limits = self.usage.limits
            wall = limits.wall_seconds
            if wall:
                late = limits.exceeded("wall_seconds", "seconds since its first step")
                deadline = self.facilities.hub.clock() + wall
                self._cancel_deadline = self.facilities.timers.at(deadline, lambda: self.end(late))
            facts = Started(self.title, self.facilities.name, self.draws.key.hex())
            self._write("started", msgspec.json.encode(facts).decode())

    def tell_progress(self, text: str) -> None:
        """Tell the client what its launch waits for."""
        if self.state == "starting":
            self._write("progress", text)

    def exited(self, outcome: Outcome) -> None:
        """The program ended by itself."""
        if type(outcome) is ProgramError and not outcome.cause:
            self.end(ProgramError(outcome.message, cause=self.cause))
        elif isinstance(outcome, PieError):
            self.end(outcome)
        elif byte_size(outcome) > MAX_EVENT_BYTES:
            self.end(TooLarge(f"the program's result exceeds {MAX_EVENT_BYTES} bytes: use session.send for large data"))
        else:
            try:
                msgspec.json.decode(outcome or "null")
            except (msgspec.DecodeError, RecursionError) as exc:
                self.end(ProgramError(f"the program's result is not JSON: {exc}"))
            else:
                self._write_what_waits()
                self._finish("return", outcome or "null", None)

    def _write_what_waits(self) -> None:
        """The last pieces of drained runs that nobody waited for: one of each, whether there is room or not."""
        while self._parked and self.state != "ended":
            for output in self._parked.popleft().events:
                self._put_out(*output)

    def kill(self, reason: PieError) -> None:
        """End it from outside, in whatever state it is. Repeats are harmless."""
        self.end(reason)

    def end(self, error: PieError) -> None:
        """End it with an error event, unless it has ended."""
        self._finish("error", "", error)

    def _finish(self, kind: EventKind, text: str, error: PieError | None) -> None:
        if self.state == "ended":
            return
        self.state = "ended"
        program, self.program = self.program, None
        self.stop_fetching()
        self._cancel_deadline()
        if program is not None and error is not None:
            program.kill(error)
        for context in list(self.contexts):
            context.close()
        self.facilities.children.parent_ended(self)
        self.facilities.post.ended(self, returned=kind == "return")
        self.facilities.tenants.leave(self.usage.end())
        self.facilities.engines.release(self)
        self.outside.close()
        self._parked.clear()
        info = None
        if error is not None:
            info = error.info()
            if len(info.message) > MAX_EVENT_BYTES // 4:
                cut = info.message[: MAX_EVENT_BYTES // 4] + " ... (cut)"
                info = msgspec.structs.replace(info, message=cut)
        self._write(kind, text, error=info)
        self._watcher.ended(self)

    # -- output

    def emit(
        self, fiber: Fiber, kind: EventKind, text: str = "", data: bytes = b"", *, drop: bool = False
    ) -> Pending | None:
        """Write an event; None when done. While the client's unacknowledged limit is reached, or output is faster than
        it may be, the answer is a Pending that resolves once there is room, or (with `drop`, or a launch with
        `on_full=drop`) the event is dropped."""
        if not self._is_free:
            if drop or self._drops:
                self.events.drop()
                return None
            return self._park(fiber, deque([(kind, text, data)]))
        self._put_out(kind, text, data)
        return None

    def emit_text(self, fiber: Fiber, kind: EventKind, text: str) -> Pending | None:
        """Write a text of any length as one or more events; parks like `emit`."""
        size = MAX_EVENT_BYTES // 4
        if len(text) <= size:
            return self.emit(fiber, kind, text)
        parts: deque[_Output] = deque((kind, text[at : at + size], b"") for at in range(0, len(text), size))
        return self._emit_parts(fiber, parts)

    def emit_file(
        self, fiber: Fiber, name: str, content: Sequence[bytes], pending: Pending | None = None
    ) -> Pending | None:
        """Write a file, given in parts of `PART_BYTES` but for the last, as an event each; parks like `emit`, or
        answers `pending`. Where events are dropped, so is the rest of the file, which then never arrives."""
        size = sum(map(len, content))
        parts: deque[_Output] = deque()
        for number, part in enumerate(content):
            header = msgspec.json.encode(FilePart(name, size, number * PART_BYTES)).decode()
            parts.append(("file", header, part))
        parked = self._emit_parts(fiber, parts, pending)
        if parked is None and pending is not None:
            pending.resolve()
        return parked

    def _emit_parts(self, fiber: Fiber, parts: deque[_Output], pending: Pending | None = None) -> Pending | None:
        while parts and self._is_free:
            self._put_out(*parts.popleft())
        if not parts:
            return None
        if self._drops:
            for _ in parts:
                self.events.drop()
            return None
        return self._park(fiber, parts, pending)

    def forward_text(self, text: str, then: Callable[[], None]) -> bool:
        """Write a message as `emit` does, but for nobody who is parked. False: it waits for room, and `then` is called
        once it is written; what waits when the program returns is written before its result."""
        if self._is_free:
            self._put_out("message", text)
        elif self._drops:
            self.events.drop()
        else:
            self._queue(deque([("message", text, b"")]), then)
            return False
        return True

    def write_output(self, kind: EventKind, text: str) -> None:
        """Output from where the program cannot be parked: dropped while the limit is reached."""
        if self.state == "running" and text:
            if not self._has_room:
                self.events.drop()
            else:
                self._put_out(kind, text)

    def credit(self, durable: int, consumed: int) -> int:
        """Progress of the event log; output that waits goes on. Returns the bytes that became durable."""
        freed = self.events.credit(durable, consumed)
        if self.state == "ended":
            return freed
        if self.events.flush_gap():
            self._watcher.written(self)
        self._unpark()
        return freed

    @property
    def _has_room(self) -> bool:
        return not self.events.is_full and self.usage.output_resumes_at <= self.facilities.hub.clock()

    @property
    def _is_free(self) -> bool:
        return not self._parked and self._has_room

    def _park(self, fiber: Fiber, events: deque[_Output], pending: Pending | None = None) -> Pending:
        pending = pending or Pending(fiber)
        pending.on_abandon = self._queue(events, pending.resolve)
        return pending

    def _queue(self, events: deque[_Output], then: Callable[[], None]) -> Callable[[], None]:
        """Write this behind what waits already, never at once: `then` is not called before the caller has the answer,
        which is how to give it up."""
        parked = _Parked(events, then)
        self._parked.append(parked)
        if len(self._parked) == 1 and not self.events.is_full:
            self.facilities.timers.at(self.usage.output_resumes_at, self._unpark)

        def leave() -> None:
            if parked in self._parked:
                self._parked.remove(parked)

        return leave

    def _unpark(self) -> None:
        """Write what waits for room, as far as there is some. What waits for the rate alone gets a timer."""
        while self._parked:
            parked = self._parked[0]
            while parked.events and self._has_room and self.state != "ended":
                self._put_out(*parked.events.popleft())
            if self.state == "ended":
                return
            if parked.events:
                if not self.events.is_full:
                    self.facilities.timers.at(self.usage.output_resumes_at, self._unpark)
                return
            self._parked.popleft()
            parked.then()

    def _put_out(self, kind: EventKind, text: str = "", data: bytes = b"") -> None:
        """Output of the program; the end of it where its limit is passed. One that has ended may still be unwinding."""
        if self.state == "ended":
            return
        try:
            self.usage.spend_output(len(data) or byte_size(text))
        except LimitExceeded as exc:
            self.end(exc)
        else:
            self._write(kind, text, data)

    def _write(self, kind: EventKind, text: str = "", data: bytes = b"", error: ErrorInfo | None = None) -> None:
        self.events.add(kind, text, data, error)
        self._watcher.written(self)


def payer_of(data: object) -> tuple[str, str]:
    """Who pays for what a fiber of this process takes from others: its tenant, and which program it is."""
    if not isinstance(data, Process):
        raise TypeError("this fiber belongs to no process")
    return data.scope.tenant, data.ref.sha256


def process_of(fiber: Fiber) -> Process:
    """The process that a fiber runs."""
    data = fiber.data
    if not isinstance(data, Process):
        raise TypeError("this fiber belongs to no process")
    return data
