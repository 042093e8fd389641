"""Files out of the events that hold their parts."""

from __future__ import annotations

import msgspec
from pie_wire.messages.common import Event, FilePart

_decoder = msgspec.json.Decoder(FilePart)


class FileJoiner:
    """Of one process's events: takes each, gives it back, or the whole file at its last part, or None in between.

    A file whose parts are not all there (they were dropped, or the events are followed from its middle) is given as a
    `gap` of one event.
    """

    def __init__(self) -> None:
        self._name = ""
        self._parts: list[bytes] = []
        self._size = 0
        self._received = 0
        self.begun_at = 0
        """Number of the event with the first part of a file that is not whole yet; 0 when there is none."""

    def take(self, event: Event) -> Event | None:
        if event.kind != "file":
            if event.kind == "gap":
                self._begin("", 0)
            return event
        try:
            part = _decoder.decode(event.text)
        except msgspec.MsgspecError:
            return Event(event.seq, "gap", "1")
        if part.offset == 0:
            self._begin(part.name, part.size)
            self.begun_at = event.seq
        received = part.offset + len(event.data)
        fits = (part.name, part.size, part.offset) == (self._name, self._size, self._received)
        if not fits or received > part.size:
            self._begin("", 0)
            return Event(event.seq, "gap", "1") if received >= part.size else None
        self._parts.append(event.data)
        self._received = received
        if received < part.size:
            return None
        whole = b"".join(self._parts)
        self._begin("", 0)
        return Event(event.seq, "file", part.name, whole)

    def _begin(self, name: str, size: int) -> None:
        self._name, self._size, self._received, self.begun_at = name, size, 0, 0
        self._parts.clear()
