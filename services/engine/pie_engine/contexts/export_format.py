"""A context as bytes: a header that says what it is, then its pages.

The first buffer is the header, MessagePack; the others hold the pages one after the other, whole, in the order of the
context, without those it has given up. A checksum covers everything, though not where a buffer ends. It tells damaged
data from sound, not honest from forged: pages of imports are therefore found by imports of the same data only (see
`KvCache.page_hash`), and nothing the data says is believed.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise

import msgspec
import numpy as np
from pie_wire.errors import BadField, BadRequest, HashMismatch, TooLarge
from pie_wire.messages.engine import MAX_EXPORT_HEADER, ExportHeader

from pie_engine.contexts.lineage import MAX_STRETCHES, Lineage
from pie_engine.passes.masks import covers
from pie_engine.passes.page_moves import Buffer
from pie_engine.passes.segment import Intervals

MAGIC = "pie-kv"
VERSION = 1
MAX_BYTES = 48 << 20
"""Of the pages of one context: more would not fit the messages that carry them beside others."""
CHECKSUM_BYTES = 16
NUMBER_BYTES = 5
"""What one takes in a header at most."""
SMALL_HEADER = MAX_EXPORT_HEADER - (64 << 10)
PART_BYTES = 4 << 20
"""A buffer holds so many bytes at most, or one page."""
_EXPONENTS = {
    "bfloat16": (np.dtype("<u2"), 0x7F80),
    "float16": (np.dtype("<u2"), 0x7C00),
    "float32": (np.dtype("<u4"), 0x7F800000),
}
"""Per number format, the bits that are all set in what is no number."""


class Header(ExportHeader, frozen=True):
    """What the header says, in the engine's terms."""

    @property
    def lineage(self) -> Lineage:
        """What it says of positions and masks."""
        return Lineage(list(self.shifts), dict[int, Intervals](self.masks), list[tuple[int, Intervals]](self.views))

    @property
    def holes(self) -> list[int]:
        """Indices of pages that were given up."""
        last = self.views[-1][1] if self.views else []
        size = self.page_size
        return [index for low, high in last for index in range(-(-low // size), high // size)]

    @property
    def pages(self) -> int:
        """Pages that the data has."""
        return -(-self.kv // self.page_size) - len(self.holes)


def check_header(header: Header) -> None:
    """Raise TooLarge for a header that could not be read again."""
    rows = sum(len(row) for _, row in header.masks) + sum(len(hidden) for _, hidden in header.views)
    most = NUMBER_BYTES * (len(header.tokens) + 2 * (len(header.shifts) + rows) + 2 * len(header.masks))
    if most <= SMALL_HEADER and not header.adapters:
        return
    size = len(msgspec.msgpack.encode(header)) + CHECKSUM_BYTES
    if size > MAX_EXPORT_HEADER:
        raise TooLarge(
            f"tokens, positions and masks of the context take {size} bytes: at most {MAX_EXPORT_HEADER} can be "
            "exported or saved. Fork or truncate to before its masks, or mask fewer stretches"
        )


def pack(header: Header, pages: Buffer) -> list[bytes]:
    """The buffers of an export; the header's checksum is filled in."""
    sealed = msgspec.structs.replace(header, checksum=_checksum(header, [pages]))
    per = max(1, PART_BYTES // header.page_bytes) * header.page_bytes
    return [msgspec.msgpack.encode(sealed), *(bytes(pages[at : at + per]) for at in range(0, len(pages), per))]


def unpack(buffers: Sequence[Buffer], *, fingerprint: str, page_size: int, page_bytes: int, dtype: str) -> Header:
    """The header of sound data for this model. Raises BadField, BadRequest, HashMismatch or TooLarge."""
    if not buffers:
        raise BadField("an import needs the buffers of an export, the header first")
    try:
        header = msgspec.msgpack.decode(buffers[0], type=Header)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise BadField(f"the first buffer is no header of an export: {exc}") from exc
    if header.magic != MAGIC or header.version != VERSION:
        raise BadField(f"data of {header.magic!r} version {header.version} cannot be read: {MAGIC!r} {VERSION} can")
    if header.fingerprint != fingerprint:
        raise BadRequest("the data belongs to another model, number format or tokenizer: append its tokens instead")
    if (header.page_size, header.page_bytes) != (page_size, page_bytes):
        raise BadRequest(f"the data has pages of {header.page_size} tokens, this engine of {page_size}")
    size = sum(len(part) for part in buffers[1:])
    if size > MAX_BYTES:
        raise TooLarge(f"{size} bytes of pages exceed the {MAX_BYTES} of an import")
    if msgspec.msgpack.encode(header) != buffers[0] or _checksum(header, buffers[1:]) != header.checksum:
        raise HashMismatch("the data was damaged: its checksum differs")
    _check(header, size)
    if any(not part or len(part) % page_bytes for part in buffers[1:]):
        raise BadField(f"a part of the data is not whole pages of {page_bytes} bytes: pass the buffers as exported")
    if any(not _are_numbers(part, dtype) for part in buffers[1:]):
        raise BadField("the pages hold values that are not numbers")
    return header


def _check(header: Header, size: int) -> None:
    """The header is one that `pack` could have been given."""
    length = len(header.tokens)
    bare = header.kv == 0 and not header.views
    if not (bare or max(0, length - 1) <= header.kv <= length):
        raise BadField(f"the header says KV of {header.kv} tokens, of {length}")
    slots = [slot for slot, _ in header.shifts], [slot for slot, _ in header.masks], [slot for slot, _ in header.views]
    for numbers in slots:
        if any(after <= before for before, after in pairwise(numbers)) or any(not 0 <= s < length for s in numbers):
            raise BadField("the header's positions and masks do not ascend within its tokens")
    for slot, row in header.masks:
        _check_intervals(row, slot + 1)
    dropped: list[tuple[int, int]] = []
    for slot, hidden in header.views:
        _check_intervals(hidden, slot)
        if len(hidden) > MAX_STRETCHES:
            raise TooLarge(f"the header has {len(hidden)} dropped stretches: at most {MAX_STRETCHES} are read")
        if not covers(hidden, dropped):
            raise BadField("the header brings dropped tokens back")
        dropped = hidden
    # A row without a mask sees itself, since it can only have dropped what is before it.
    for slot, row in header.masks:
        index = bisect_right(header.views, slot, key=lambda view: view[0])
        if index and covers(header.views[index - 1][1], row):
            raise BadField("the header has a row that sees nothing")
    if size != header.pages * header.page_bytes:
        raise BadField(f"{size} bytes are not the {header.pages} pages of {header.page_bytes} that the header says")


def _check_intervals(intervals: list[tuple[int, int]], most: int) -> None:
    ends = [end for pair in intervals for end in pair]
    if not ends or ends[0] < 0 or ends[-1] > most or any(after <= before for before, after in pairwise(ends)):
        raise BadField("the header's masks are not ascending stretches of slots")


def _checksum(header: Header, parts: Sequence[Buffer]) -> bytes:
    digest = hashlib.blake2b(
        msgspec.msgpack.encode(msgspec.structs.replace(header, checksum=b"")), digest_size=CHECKSUM_BYTES
    )
    for part in parts:
        digest.update(part)
    return digest.digest()


def _are_numbers(part: Buffer, dtype: str) -> bool:
    if dtype not in _EXPONENTS:
        return True
    kind, exponent = _EXPONENTS[dtype]
    return not bool(((np.frombuffer(part, dtype=kind) & exponent) == exponent).any())
