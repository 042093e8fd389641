"""One run of a fake program."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from pie_wire.errors import Conflict
from pie_wire.file_names import PART_BYTES
from pie_wire.messages.common import EventKind, FilePart


class FakeRun:
    """What a fake program has instead of the guest's `session`."""

    def __init__(self, emit: Callable[[EventKind, str, bytes], None]) -> None:
        self._emit = emit
        self._inbox: asyncio.Queue[str | bytes] = asyncio.Queue(1024)
        self._files: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()
        self._parts: dict[str, bytearray] = {}

    async def send(self, message: str | bytes) -> None:
        """A `message` event, or a `binary` one."""
        if isinstance(message, str):
            self._emit("message", message, b"")
        else:
            self._emit("binary", "", message)
        await asyncio.sleep(0)

    async def send_file(self, name: str, data: bytes) -> None:
        """A file, as `file` events."""
        for at in range(0, len(data) or 1, PART_BYTES):
            header = msgspec.json.encode(FilePart(name, len(data), at)).decode()
            self._emit("file", header, data[at : at + PART_BYTES])
        await asyncio.sleep(0)

    async def print(self, text: str) -> None:
        """A `stdout` event."""
        self._emit("stdout", text, b"")
        await asyncio.sleep(0)

    async def receive_file(self) -> tuple[str, bytes]:
        """The next file a client sent."""
        return await self._files.get()

    def deliver_part(self, file: str, name: str, size: int, offset: int, part: bytes) -> None:
        """A part of a file; the whole is there when all of it is."""
        data = self._parts.setdefault(file, bytearray())
        if offset == len(data):
            data += part
            if len(data) == size:
                self._files.put_nowait((name, bytes(data)))

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
