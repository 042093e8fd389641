"""The binary form of modules and components, as far as sections and the lists in them.

https://github.com/WebAssembly/component-model/blob/main/design/mvp/Binary.md
"""

from __future__ import annotations

from collections.abc import Iterator

from pie_wire.errors import BadProgram

HEAD = 8
"""Bytes before the first section."""
_SORT_CORE, _SORT_COMPONENT, _CORE_SORT_MODULE = 0x00, 0x04, 0x11


class Malformed(BadProgram):
    """What the binary form does not allow."""

    def __init__(self, why: str) -> None:
        super().__init__(f"This is not a component that can be compiled: {why}.")


class Reader:
    """Reads a section's content from its beginning."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def byte(self) -> int:
        """The next one. Every read raises Malformed where the data ends too early."""
        if self.at >= len(self.data):
            raise Malformed("a section ends too early")
        self.at += 1
        return self.data[self.at - 1]

    def number(self) -> int:
        """An unsigned LEB128."""
        value = shift = 0
        while True:
            part = self.byte()
            value |= (part & 0x7F) << shift
            if part < 0x80:
                return value
            shift += 7
            if shift > 63:
                raise Malformed("a number is too long")

    def take(self, size: int) -> bytes:
        """The next so many bytes."""
        if size > len(self.data) - self.at:
            raise Malformed("a section ends too early")
        self.at += size
        return self.data[self.at - size : self.at]

    def skip_text(self) -> None:
        """A length and a text."""
        self.take(self.number())

    def skip_name(self) -> None:
        """Of an export."""
        if self.byte() > 1:  # 1 once meant an interface
            raise BadProgram("The component has names with attributes, which are not known here: build it without.")
        self.skip_text()

    def sort(self) -> int:
        """What an entry is about. Raises BadProgram for modules and components, which could be instantiated again."""
        sort = self.byte()
        core = self.byte() if sort == _SORT_CORE else 0
        if sort == _SORT_COMPONENT or core == _CORE_SORT_MODULE:
            raise BadProgram(
                "The component hands a module or component of its own on to be instantiated elsewhere, so that nobody "
                "knows how many memories it has: instantiate it where it is defined."
            )
        return sort

    def items(self) -> range:
        """As many as follow in a list."""
        return range(self.number())

    def end(self) -> None:
        """Raises Malformed when something is left."""
        if self.at != len(self.data):
            raise Malformed("a section is longer than what is in it")


def sections(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and content of each, behind the head. Raises Malformed."""
    reader = Reader(data)
    reader.at = HEAD
    while reader.at < len(data):
        yield reader.byte(), reader.take(reader.number())


def section(kind: int, content: bytes) -> bytes:
    """One as it is written."""
    return bytes([kind]) + leb(len(content)) + content


def leb(value: int) -> bytes:
    """An unsigned number."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
