"""Counts of references are overwritten in the finished component, and nothing else is."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from pie_bakery.python_image import IMMORTAL, MARK, make_immortal
from pie_bakery.tools import BuildError

NONE, LIST, STATIC, LATE = 0x2000, 0x2010, 0x2020, 0x9000
AT_THE_END = 0x203E


def leb(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def signed(value: int) -> bytes:
    text = leb(value)
    return text if not text[-1] & 0x40 else text[:-1] + bytes([text[-1] | 0x80, 0])


def section(kind: int, content: bytes) -> bytes:
    return bytes([kind]) + leb(len(content)) + content


def component(segments: dict[int, bytes], flags: int = 0) -> bytes:
    """A component with two modules; the second has the memory, and a section before its data."""
    parts = [leb(flags) + b"\x41" + signed(at) + b"\x0b" + leb(len(data)) + data for at, data in segments.items()]
    data = section(11, leb(len(parts)) + b"".join(parts))
    header = b"\0asm\x01\0\0\0"
    other = header + section(11, leb(1) + b"\0\x41\x10\x0b\x04last")
    return b"\0asm\x0d\0\1\0" + section(1, other) + section(1, header + section(5, b"\1\0\1") + data)


def listed(*addresses: int) -> bytes:
    return MARK + struct.pack(f"<{len(addresses) + 1}I", len(addresses), *addresses)


def objects(none: int = 0x70000000, count: int = 3) -> bytes:
    return struct.pack("<12I", none, 1, 2, 3, count, 1, 2, 3, 0x70000000, 1, 2, 3) + b"\0" * 14 + b"\5\0"


def test_counts_are_overwritten_and_the_list_is_cleared(tmp_path: Path):
    path = tmp_path / "component.wasm"
    addresses = listed(NONE, LIST, STATIC, AT_THE_END, LATE)
    path.write_bytes(component({0x100: b"x", 0x1000: b"before" + addresses + b"behind", NONE: objects()}))

    made = make_immortal(path)

    cleared = b"before" + bytes(len(addresses)) + b"behind"
    wanted = component({0x100: b"x", 0x1000: cleared, NONE: objects(count=IMMORTAL)})
    assert made == 1, "one was immortal, one is cut by the end of its segment, one is where nothing is"
    assert path.read_bytes() == wanted


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (component({NONE: objects()}), "must list its objects"),
        (component({0x1000: listed(NONE) + listed(NONE), NONE: objects()}), "must list its objects, once"),
        (component({0x1000: listed(NONE), NONE: objects(none=5)}), "no immortal objects"),
        (component({0x1000: listed(LATE), NONE: objects()}), "no immortal objects"),
        (component({0x1000: listed(NONE, LIST), NONE: objects(count=0)}), "where there is none"),
        (component({0x1000: listed(NONE), NONE: objects()}, flags=1), "plain data segments"),
    ],
)
def test_what_does_not_look_like_objects_stays_as_it_is(tmp_path: Path, content: bytes, words: str):
    path = tmp_path / "component.wasm"
    path.write_bytes(content)

    with pytest.raises(BuildError, match=words):
        make_immortal(path)

    assert path.read_bytes() == content
