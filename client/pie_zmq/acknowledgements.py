"""What has been taken of each process, told to the gateway: many processes in one message."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from pie_wire.messages.gateway import AckEvents

ACK_WITHIN = 0.1
"""Seconds until an acknowledgement leaves at the latest."""


class Acknowledgements:
    """Those of one connection. `send` drops a message while there is no link: who attaches again acknowledges again."""

    def __init__(self, send: Callable[[AckEvents], None]) -> None:
        self._send = send
        self._taken: dict[str, int] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._soon: asyncio.Handle | None = None

    def note(self, pid: str, seq: int, *, urgent: bool) -> None:
        """Everything up to `seq` has been taken. Urgent ones leave in this turn of the loop, together."""
        self._taken[pid] = seq
        if urgent and self._soon is None:
            self._soon = asyncio.get_running_loop().call_soon(self.flush)
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(ACK_WITHIN, self.flush)

    def flush(self) -> None:
        """Send what there is now."""
        for handle in (self._timer, self._soon):
            if handle is not None:
                handle.cancel()
        self._timer = self._soon = None
        taken, self._taken = self._taken, {}
        if taken:
            self._send(AckEvents(list(taken), list(taken.values())))
