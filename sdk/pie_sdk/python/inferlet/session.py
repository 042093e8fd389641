"""The client that launched this program."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any

from wit_world.imports import session as raw

from inferlet import loop
from inferlet.errors import PieError, host_errors, unwrap

_MAX_BYTES = 4_000_000


@dataclass(frozen=True)
class File:
    """What `receive_file` gives. The name is one the client chose: no path."""

    name: str
    content: bytes

    def text(self) -> str:
        """As UTF-8."""
        return self.content.decode()


def send(message: Any, *, drop_when_full: bool = False) -> None:
    """Send to the client; anything but a string goes as JSON. Waits while the client has too much unread, or drops."""
    text = message if isinstance(message, str) else json.dumps(message)
    with host_errors():
        raw.send(text, _on_full(drop_when_full))


def send_bytes(data: bytes, *, drop_when_full: bool = False) -> None:
    """Send bytes, at most 4 MB at a time."""
    if len(data) > _MAX_BYTES:
        raise PieError("too_large", f"{len(data)} bytes in one message; at most {_MAX_BYTES}: send it in pieces.")
    with host_errors():
        raw.send_bytes(data, _on_full(drop_when_full))


def send_file(name: str, content: bytes | str) -> None:
    """A file for the client: its name, without folders, and its bytes (or text, in UTF-8). Waits while the client has
    too much unread. Raises PieError `limit_exceeded` beyond the limit `file_bytes`."""
    data = content.encode() if isinstance(content, str) else content
    with host_errors():
        raw.send_file(name, base64.b64encode(data).decode())


async def receive_file() -> File:
    """The client's next file."""
    with raw.receive_file() as pending:
        given = unwrap(await loop.result(pending))
    return File(given.name, base64.b64decode(given.content))


async def receive() -> str | bytes:
    """The client's next message. Raises PieError `closed` when none can come any more."""
    with raw.receive() as pending:
        return unwrap(await loop.result(pending)).value


def _on_full(drop: bool) -> raw.OnFull:
    return raw.OnFull.DROP if drop else raw.OnFull.WAIT
