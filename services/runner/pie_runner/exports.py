"""Contexts as one piece of bytes: what programs export and import, and what snapshots keep beside tokens.

    "pie-kv01" | length of the header, 4 bytes little-endian | header | whole pages

The header is the engine's (`pie_wire.messages.engine.ExportHeader`). It is read here only to know what the context will
be if the engine takes it, which checks everything, and to count it meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import pairwise

import msgspec
from pie_wire.codec import Buffer
from pie_wire.errors import BadRequest, Closed, InternalError, PieError, TooLarge
from pie_wire.messages.engine import MAX_EXPORT_HEADER, AdapterUse, ExportHeader
from pie_wire.messages.runner import Exported

from pie_runner.base64_pieces import decoded, encoded
from pie_runner.layout import Layout
from pie_runner.waitables import Waitable, Waitables
from pie_runner.wasm.hostcall import Err, Ok

MAGIC = b"pie-kv01"
MAX_BYTES = 50 << 20
MAX_TEXT = (MAX_BYTES // 3 + 2) * 4
PART_BYTES = 4 << 20
"""A buffer on the wire holds so many bytes at most, or one page."""


@dataclass(frozen=True)
class Archive:
    """An export: its header, read, and the buffers that travel."""

    header: ExportHeader
    parts: list[bytes]

    @property
    def size(self) -> int:
        return sum(map(len, self.parts))

    @property
    def layout(self) -> Layout:
        """What the context will be."""
        header = self.header
        firsts = [slots[0][0] for slots in (header.shifts, header.masks, header.adapters) if slots]
        dropped = tuple(header.views[-1][1]) if header.views else ()
        return Layout(dropped=dropped, special=min(firsts, default=None))

    @property
    def adapters(self) -> list[AdapterUse] | None:
        """What all tokens are computed with, if nothing else has to be known to compute them."""
        header = self.header
        if header.kv or header.shifts or header.masks or header.views or len(header.adapters) > 1:
            return None
        if not header.adapters:
            return []
        start, uses = header.adapters[0]
        return None if start else [AdapterUse(name, weight) for name, weight in uses]


def pack(parts: Sequence[bytes]) -> bytes:
    """The buffers of an export, the header first, as one piece."""
    whole = BytesIO()
    for part in _packed(parts):
        whole.write(part)  # to join them all at once would keep other threads from running
    return whole.getvalue()


def encode(parts: Sequence[bytes]) -> bytes:
    """The same as base64 text. Takes 100 ms for large ones, but lets other threads run meanwhile."""
    return encoded(*_packed(parts))


def _packed(parts: Sequence[bytes]) -> tuple[bytes, ...]:
    return (MAGIC, len(parts[0]).to_bytes(4, "little"), *parts)


def unpack(data: bytes) -> Archive:
    """Takes milliseconds for large data. Raises BadRequest or TooLarge."""
    if len(data) > MAX_BYTES:
        raise TooLarge(f"an export has at most {MAX_BYTES} bytes, not {len(data)}")
    start = len(MAGIC) + 4
    length = int.from_bytes(data[len(MAGIC) : start], "little")
    head = data[start : start + length]
    if not data.startswith(MAGIC) or len(head) != length:
        raise BadRequest("the data is no export of a context, or was cut")
    if length > MAX_EXPORT_HEADER:
        raise TooLarge(f"the header of an export has at most {MAX_EXPORT_HEADER} bytes, not {length}")
    try:
        header = msgspec.msgpack.decode(head, type=ExportHeader)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise BadRequest(f"the data is no export of a context: {exc}") from exc
    _check_dropped(header)
    if header.page_bytes < 1:
        raise BadRequest(f"the export says pages of {header.page_bytes} bytes")
    per = max(1, PART_BYTES // header.page_bytes) * header.page_bytes
    pages = [data[at : at + per] for at in range(start + length, len(data), per)]
    return Archive(header, [head, *pages])


def _check_dropped(header: ExportHeader) -> None:
    """By these the pages are counted that the context takes. Raises BadRequest."""
    ends = [end for pair in header.views[-1][1] for end in pair] if header.views else []
    if ends and (ends[0] < 0 or ends[-1] >= len(header.tokens) or any(b <= a for a, b in pairwise(ends))):
        raise BadRequest("the export says that tokens were dropped which it does not have")


def decode(text: str) -> Archive:
    """What a program has as base64 text; lets other threads run meanwhile. Raises BadRequest or TooLarge."""
    return unpack(decoded(text, "the data"))


class Collector:
    """Gathers the parts of one export."""

    def __init__(self, then: Callable[[list[bytes] | None, PieError | None], None]) -> None:
        """`then` gets the parts in order, or why there are none; once."""
        self._then = then
        self._parts: dict[int, bytes] = {}

    def add(self, part: Exported, buffers: Sequence[Buffer]) -> bool:
        """A part came; True when it was the last one."""
        if not 0 <= part.buffer < len(buffers):
            self.fail(InternalError(f"the engine's answer does not fit the export: it has no buffer {part.buffer}"))
            return True
        self._parts[part.part] = bytes(buffers[part.buffer])
        if len(self._parts) < part.parts:
            return False
        self._then([self._parts[i] for i in sorted(self._parts)], None)
        return True

    def fail(self, error: PieError) -> None:
        """It will not be."""
        self._then(None, error)


class PendingExport(Waitable):
    """The WIT's `pending-export`."""

    def __init__(self, table: Waitables) -> None:
        super().__init__(table)
        self.on_close: Callable[[], None] = lambda: None
        self._answer: Ok | Err | None = None
        self._taken = False

    @property
    def ready(self) -> bool:
        return self._taken or self._answer is not None

    def deliver(self, text: bytes) -> None:
        """The data, as base64 text."""
        self._set(Ok(text))

    def fail(self, error: PieError) -> None:
        """There is none."""
        self._set(Err(error.info()))

    def get(self) -> Ok | Err | None:
        if self._taken:
            return Err(Closed("this export was already taken").info())
        if self._answer is None:
            return None
        answer, self._answer, self._taken = self._answer, None, True
        return answer

    def close(self) -> None:
        super().close()
        self._answer, self._taken = None, True
        self.on_close()

    def _set(self, answer: Ok | Err) -> None:
        if not self.ready:
            self._answer = answer
            self.notify()
