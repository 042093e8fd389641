"""One run of a fake program."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from pie_wire.errors import Conflict
from pie_wire.messages.common import EventKind


class FakeRun:
    """What a fake program has instead of the guest's `session`."""

    def __init__(self, emit: Callable[[EventKind, str, bytes], None]) -> None:
        self._emit = emit
        self._inbox: asyncio.Queue[str | bytes] = asyncio.Queue(1024)

    async def send(self, message: str | bytes) -> None:
        """A `message` event, or a `binary` one."""
        if isinstance(message, str):
            self._emit("message", message, b"")
        else:
            self._emit("binary", "", message)
        await asyncio.sleep(0)

    async def print(self, text: str) -> None:
        """A `stdout` event."""
        self._emit("stdout", text, b"")
        await asyncio.sleep(0)

    async def receive(self) -> str | bytes:
        """The next message a client signalled."""
        return await self._inbox.get()

    def deliver(self, message: str | bytes) -> None:
        """Raises Conflict when too many messages wait."""
        try:
            self._inbox.put_nowait(message)
        except asyncio.QueueFull as exc:
            raise Conflict("1024 messages wait already") from exc


FakeProgram = Callable[[FakeRun, Any], Awaitable[Any]]
"""Called with the run and the decoded input; returns what the process returns. A PieError it raises is the process's
error; any other exception becomes ProgramError."""
