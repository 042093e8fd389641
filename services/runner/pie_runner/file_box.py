"""Files from the client: put together from their parts, then each for one `session.receive-file`."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from pie_wire.codec import Buffer
from pie_wire.errors import BadField, Overloaded, TooLarge
from pie_wire.file_names import file_name

from pie_runner.base64_pieces import Base64Text
from pie_runner.mailbox import Mailbox, PendingMessage
from pie_runner.process_limits import ProcessLimits
from pie_runner.waitables import Waitables

MAX_FILES = 64
"""Arriving, or waiting for the program."""
IDLE_SECONDS = 60.0
"""After which a file that does not go on arriving makes room for others."""
REMEMBERED = 256
"""Files that have arrived, whose parts, repeated, are still recognised."""


class NamedFile(NamedTuple):
    """The WIT's `named-file`; the content is base64, as ASCII."""

    name: str
    content: bytes


@dataclass(frozen=True)
class FileLetter:
    """A file that has arrived."""

    name: str
    value: bytes
    """Base64."""

    @property
    def answer(self) -> NamedFile:
        return NamedFile(self.name, self.value)


@dataclass
class _Arriving:
    """A file of which parts have come."""

    name: str
    size: int
    touched: float
    received: int = 0
    text: Base64Text = field(default_factory=Base64Text)

    def add(self, part: Buffer) -> None:
        self.received += len(part)
        self.text.add(part)


class FileBox:
    """Of one process. `file_bytes` bounds one file; all that arrive or wait take twice as much."""

    def __init__(self, waitables: Waitables, limits: ProcessLimits, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._limit = limits.file_bytes
        self._clock = clock
        self._box = Mailbox(waitables, MAX_FILES, 4 * self._limit)
        self._arriving: dict[str, _Arriving] = {}
        self._arrived: OrderedDict[str, None] = OrderedDict()

    def receive(self) -> PendingMessage:
        """Ask for the next file."""
        return self._box.receive()

    def put(self, file: str, name: str, size: int, offset: int, part: Buffer) -> None:
        """A part of a file. Repeats are harmless.

        Raises:
            BadRequest: the name. BadField: the part does not follow what is here. TooLarge: the file. Overloaded: no
            room until the program has received some.
        """
        if file in self._arrived:
            return
        arriving = self._arriving.get(file)
        if arriving is None:
            if offset:
                raise BadField(f"file {file} begins at offset {offset}: send it from 0")
            arriving = self._begin(file, name, size)
        if (arriving.name, arriving.size) != (name, size) or offset > arriving.received or offset + len(part) > size:
            raise BadField(f"part {offset} to {offset + len(part)} of file {file} does not follow {arriving.received}")
        arriving.touched = self._clock()
        if offset == arriving.received and (len(part) or not size):
            arriving.add(part)
        if arriving.received == size:
            self._box.deliver(FileLetter(name, arriving.text.whole()))
            del self._arriving[file]
            self._arrived[file] = None
            if len(self._arrived) > REMEMBERED:
                self._arrived.popitem(last=False)

    def _begin(self, file: str, name: str, size: int) -> _Arriving:
        file_name(name)
        if size < 0:
            raise BadField(f"the size of file {name!r} is {size}")
        if size > self._limit:
            raise TooLarge(
                f"file {name!r} of {size} bytes passes the limit file_bytes = {self._limit}; the operator can raise it "
                f"({self._limits.where('file_bytes')})"
            )
        idle = self._clock() - IDLE_SECONDS
        for key in [key for key, other in self._arriving.items() if other.touched < idle]:
            del self._arriving[key]
        held = sum(other.size for other in self._arriving.values()) + self._box.size * 3 // 4
        count = len(self._arriving) + len(self._box)
        if held + size > 2 * self._limit or count >= MAX_FILES:
            raise Overloaded(
                f"{count} files of {held} bytes arrive or wait for the program, and there may be {MAX_FILES} `files` "
                f"of {2 * self._limit} bytes (twice `file_bytes`): try again when it has received some"
            )
        self._arriving[file] = _Arriving(name, size, self._clock())
        return self._arriving[file]
