"""The client that launched this program."""

from __future__ import annotations

import json
from typing import Any

from wit_world.imports import session as raw

from inferlet import loop
from inferlet.errors import PieError, host_errors, unwrap

_MAX_BYTES = 4_000_000


def send(message: Any, *, drop_when_full: bool = False) -> None:
    """Send to the client; anything but a string goes as JSON. Waits while the client has too much unread, or drops."""
    text = message if isinstance(message, str) else json.dumps(message)
    with host_errors():
        raw.send(text, _on_full(drop_when_full))


def send_file(data: bytes, *, drop_when_full: bool = False) -> None:
    """Send bytes, at most 4 MB at a time."""
    if len(data) > _MAX_BYTES:
        raise PieError("too_large", f"{len(data)} bytes in one message; at most {_MAX_BYTES}: send it in pieces.")
    with host_errors():
        raw.send_bytes(data, _on_full(drop_when_full))


async def receive() -> str | bytes:
    """The client's next message. Raises PieError `closed` when none can come any more."""
    with raw.receive() as pending:
        return unwrap(await loop.result(pending)).value


def _on_full(drop: bool) -> raw.OnFull:
    return raw.OnFull.DROP if drop else raw.OnFull.WAIT
