"""A launched process as its client sees it: events in order, the result, and the ways to talk to it."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from pie_wire.errors import Cancelled, DeadlineExceeded, InternalError, PieError, from_info
from pie_wire.file_names import PART_BYTES
from pie_wire.messages.common import TERMINAL_KINDS, Event
from pie_wire.messages.gateway import Detach, SendFile, Signal, Terminate

from pie_zmq.file_joiner import FileJoiner

if TYPE_CHECKING:
    from pie_zmq.connection import Connection

ACK_EVENTS = 128
ACK_BYTES = 128 << 10
REQUEST_TIMEOUT = 30.0
RETRY_PAUSE = 0.2


class AsyncProcess:
    """Made by `AsyncClient.launch` and `attach`. Events wait in a buffer that the gateway's window bounds; what has
    been taken from it is acknowledged, which lets the process go on."""

    def __init__(self, connection: Connection, pid: str, program: str, start: int = 1) -> None:
        self.pid = pid
        self.program = program
        self.outcome: Event | None = None
        """The terminal event, as soon as it has arrived."""
        self.is_attached = False
        """Events flow, or will again once the gateway is back."""
        self._connection = connection
        self._buffer: deque[Event] = deque()
        self._received = start - 1
        self._taken = start - 1
        self._acked = start - 1
        self._taken_bytes = 0
        self._files = FileJoiner()
        self._failure: PieError | None = None
        self._readers = 0
        self._news = asyncio.Event()

    @property
    def next_seq(self) -> int:
        """The number of the event after the last one that has arrived."""
        return self._received + 1

    @property
    def last_seq(self) -> int:
        """The number of the last event taken; attach from the next one to go on elsewhere. Of a file that is not whole
        yet, no part counts."""
        return self._files.begun_at - 1 if self._files.begun_at else self._taken

    async def events(self) -> AsyncIterator[Event]:
        """Events not taken yet, in order, up to and including the terminal one (`return` or `error`).

        A file that the program sent is one event of kind `file`, with its name in `text` and its bytes in `data`. A
        `gap` event stands for events that are no longer there, or were dropped as the launch asked; its `text` is how
        many.

        Raises:
            PieError: no more events will come, because of what it says.
        """
        self._readers += 1
        try:
            while taken := await self.take(1):
                yield taken[0]
        finally:
            self._readers -= 1
            self._news.set()

    async def take(self, limit: int) -> list[Event]:
        """Up to `limit` events, as soon as there is one; none after the terminal one has been taken. For many events
        at once; `events` is the usual way.

        Raises:
            PieError: as `events`.
        """
        while True:
            while not self._buffer:
                if self._is_through:
                    return []
                if self._failure is not None:
                    raise self._failure
                await self._wait()
            taken = self._take_some(limit)
            if taken:
                return taken

    def _take_some(self, limit: int) -> list[Event]:
        """Up to `limit` events of the buffer; a file is one, when its last part is there."""
        taken: list[Event] = []
        while self._buffer and len(taken) < limit:
            event = self._files.take(self._take_one())
            if event is not None:
                taken.append(event)
        return taken

    async def result(self, timeout: float | None = None) -> Any:  # noqa: ASYNC109 - a convenience with its own error
        """What the program returned, decoded. Events that nobody iterates over are passed over.

        Raises:
            DeadlineExceeded: not within `timeout` seconds. ProgramError, ProcessLost, Terminated and others: the
            process ended with this error. PieError: its end cannot be learned.
        """
        try:
            async with asyncio.timeout(timeout):
                while self.outcome is None:
                    if self._failure is not None:
                        raise self._failure
                    if self._readers == 0:
                        await self.take(1)
                    else:
                        await self._wait()
        except TimeoutError as exc:
            raise DeadlineExceeded(f"process {self.pid} has not ended within {timeout:g} s") from exc
        if self._readers == 0:
            while self._buffer:
                self._take_one()
        return _value(self.outcome)

    async def signal(self, message: str | bytes) -> None:
        """Send a message to the program's `session.receive`.

        Raises:
            Overloaded: the program has not received earlier ones: try again. TooLarge: it never has room. Gone: the
            program has ended. PieError.
        """
        if isinstance(message, str):
            await self._connection.ask(Signal(self.pid, message), timeout=REQUEST_TIMEOUT)
        else:
            request = Signal(self.pid, binary=True)
            await self._connection.ask(request, timeout=REQUEST_TIMEOUT, buffers=[message])

    async def send_file(self, name: str, data: bytes | str, *, timeout: float = 60.0) -> None:  # noqa: ASYNC109
        """Send a file to the program's `session.receive_file`; returns when its runner has it, whatever links are lost
        meanwhile.

        Raises:
            BadRequest: `name` is no plain file name. TooLarge: beyond the limit `file_bytes`. Overloaded: the program
            has not received earlier files within `timeout` seconds. Gone: it has ended. PieError.
        """
        content = data.encode() if isinstance(data, str) else data
        file, offset, deadline = secrets.token_hex(16), 0, time.monotonic() + timeout
        while True:
            part = memoryview(content)[offset : offset + PART_BYTES]
            request = SendFile(self.pid, file, name, len(content), offset)
            try:
                await self._connection.ask(request, timeout=REQUEST_TIMEOUT, buffers=[part])
            except PieError as exc:
                if not exc.retryable or time.monotonic() >= deadline:
                    raise
                await asyncio.sleep(RETRY_PAUSE)
                continue
            offset += len(part)
            deadline = time.monotonic() + timeout
            if offset >= len(content):
                return

    async def terminate(self, reason: str = "terminated by its owner") -> None:
        """End the process; returns when it has ended. One that has ended already is no error. Raises PieError."""
        await self._connection.ask(Terminate(self.pid, reason), timeout=REQUEST_TIMEOUT)

    async def detach(self) -> None:
        """Take no more events; the process goes on. Raises PieError."""
        self.is_attached = False
        self.fail(Cancelled(f"detached from process {self.pid}: attach from event {self._taken + 1} to go on"))
        await self._connection.ask(Detach(self.pid), timeout=REQUEST_TIMEOUT)

    # -- for the client

    def receive(self, events: list[Event]) -> bool:
        """Take in events from the gateway; repeated ones are dropped. False if some are missing in between."""
        for event in events:
            if event.seq <= self._received:
                continue
            if event.seq != self._received + 1 and event.kind != "gap":
                return False
            self._received = event.seq
            self._buffer.append(event)
            if event.kind in TERMINAL_KINDS:
                self.outcome = event
                self.is_attached = False
        self._news.set()
        return True

    def fail(self, error: PieError) -> None:
        """No more events will come."""
        if self.outcome is None and self._failure is None:
            self._failure = error
            self.is_attached = False
            self._news.set()

    def acknowledge(self) -> None:
        """Tell the gateway soon what has been taken."""
        self._acked, self._taken_bytes = self._taken, 0
        self._connection.acknowledgements.note(self.pid, self._taken, urgent=True)

    # -- inside

    @property
    def _is_through(self) -> bool:
        return self.outcome is not None and self._taken >= self.outcome.seq

    async def _wait(self) -> None:
        self._news.clear()
        await self._news.wait()

    def _take_one(self) -> Event:
        event = self._buffer.popleft()
        self._taken = event.seq
        self._taken_bytes += event.size
        if self._is_through or self._taken - self._acked >= ACK_EVENTS or self._taken_bytes >= ACK_BYTES:
            self.acknowledge()
        else:
            self._connection.acknowledgements.note(self.pid, self._taken, urgent=False)
        return event


def _value(outcome: Event) -> Any:
    if outcome.kind == "error":
        raise from_info(outcome.error) if outcome.error else InternalError("the process ended with an empty error")
    try:
        return json.loads(outcome.text) if outcome.text else None
    except ValueError as exc:
        raise InternalError(f"the process returned something that is not JSON: {exc}") from exc
