"""The memory that instances of a built Python component begin with: its objects are made immortal.

The component lists the addresses of its objects (`inferlet.immortal`). Its memory is in the data segments of one of its
modules, where their reference counts are overwritten.
"""

from __future__ import annotations

import bisect
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pie_bakery.tools import BuildError

MARK = b"pie image: addresses of immortal objects in here"
IMMORTAL = 5 << 28
"""CPython's `_Py_IMMORTAL_INITIAL_REFCNT` where pointers have 32 bits."""
_LEAST_IMMORTAL = 1 << 30

_HEADER = 8
_CORE_MODULE = 1
_DATA = 11
_I32_CONST, _END = 0x41, 0x0B


@dataclass(frozen=True, slots=True, order=True)
class Segment:
    """Bytes of the memory, and where in the file they are."""

    address: int
    size: int
    at: int


def make_immortal(component: Path) -> int:
    """Rewrite the file; returns how many objects were made immortal (some are already).

    Raises BuildError when what is there does not look like CPython's objects.
    """
    data = bytearray(component.read_bytes())
    mark = data.find(MARK)
    if mark < 0 or data.find(MARK, mark + 1) >= 0:
        raise BuildError("The component must list its objects, once: does it end with `image.settle()`?")
    start = mark + len(MARK)
    (count,) = struct.unpack_from("<I", data, start)
    addresses = struct.unpack_from(f"<{count}I", data, start + 4)
    segments = sorted(_segments_around(data, mark))
    none, *objects = addresses
    at = _find(segments, none)
    if at is None or struct.unpack_from("<I", data, at)[0] < _LEAST_IMMORTAL:
        raise BuildError("The component's Python has no immortal objects where they were expected.")
    made = 0
    for address in objects:
        at = _find(segments, address)
        if at is None:
            continue
        (references,) = struct.unpack_from("<I", data, at)
        if references == 0:
            raise BuildError(f"The component lists an object at {address:#x}, where there is none.")
        if references < _LEAST_IMMORTAL:
            struct.pack_into("<I", data, at, IMMORTAL)
            made += 1
    data[mark : start + 4 * (count + 1)] = bytes(len(MARK) + 4 * (count + 1))
    component.write_bytes(data)
    return made


def _find(segments: list[Segment], address: int) -> int | None:
    """Where in the file the count of the object at this address is; None if not wholly in one segment."""
    number = bisect.bisect_right(segments, address, key=lambda each: each.address) - 1
    if number < 0:
        return None
    segment = segments[number]
    offset = address - segment.address
    return segment.at + offset if offset + 4 <= segment.size else None


def _segments_around(data: bytearray, place: int) -> Iterator[Segment]:
    """The segments of memory 0 of the module that has this place in the file."""
    for kind, at, end in _sections(data, _HEADER, len(data)):
        if kind == _CORE_MODULE and at <= place < end:
            for part, first, last in _sections(data, at + _HEADER, end):
                if part == _DATA and first <= place < last:
                    yield from _segments(data, first)


def _sections(data: bytearray, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(id, first byte of the content, end) of the sections of a component or module."""
    while at < end:
        kind = data[at]
        size, at = _number(data, at + 1)
        yield kind, at, at + size
        at += size


def _segments(data: bytearray, at: int) -> Iterator[Segment]:
    count, at = _number(data, at)
    for _ in range(count):
        flags, at = _number(data, at)
        if flags != 0 or data[at] != _I32_CONST:
            raise BuildError("The component's memory is not made of plain data segments.")
        address, at = _number(data, at + 1, signed=True)
        if data[at] != _END:
            raise BuildError("The component's memory is not made of plain data segments.")
        size, at = _number(data, at + 1)
        yield Segment(address, size, at)
        at += size


def _number(data: bytearray, at: int, *, signed: bool = False) -> tuple[int, int]:
    """A LEB128 number and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    if signed and byte & 0x40:
        value -= 1 << shift
    return value, at
