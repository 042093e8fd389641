"""Files: `/scratch` is this process's and vanishes with it, `/data` is the user's and the program's, and stays.

    from inferlet import files

    files.write("/scratch/notes.txt", "text or bytes")
    files.read_text("/scratch/notes.txt")

A program needs the capability `filesystem` for them. Calls wait for the disk, and other tasks of the program with them.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass

from wit_world.imports import filesystem as raw

from inferlet.errors import PieError, host_errors

_PIECE = 8 << 20


@dataclass(frozen=True)
class Entry:
    """A file or folder; `modified` in seconds since 1970."""

    name: str
    is_folder: bool
    size: int
    modified: float


def read(path: str, offset: int = 0, length: int | None = None) -> bytes:
    """A file's bytes: all, or `length` of them from `offset`. Raises PieError `not_found`."""
    pieces: list[bytes] = []
    while length is None or length > 0:
        wanted = _PIECE if length is None else min(_PIECE, length)
        with host_errors():
            piece = base64.b64decode(raw.read(path, offset, wanted))
        pieces.append(piece)
        offset += len(piece)
        length = None if length is None else length - len(piece)
        if len(piece) < wanted:
            break
    return b"".join(pieces)


def read_text(path: str) -> str:
    """A file's text, in UTF-8."""
    return read(path).decode()


def write(path: str, content: bytes | str) -> None:
    """Replace or make a file, as a whole or not at all; at most 16 MiB. Raises PieError `quota_exceeded`."""
    with host_errors():
        raw.write(path, _encoded(content))


def append(path: str, content: bytes | str) -> None:
    """Add to the end of a file, which is made if need be; at most 16 MiB."""
    with host_errors():
        raw.append(path, _encoded(content))


def stat(path: str) -> Entry:
    """What is there. Raises PieError `not_found`."""
    with host_errors():
        return _entry(raw.stat(path))


def exists(path: str) -> bool:
    """Whether anything is there."""
    try:
        stat(path)
    except PieError as exc:
        if exc.code == "not_found":
            return False
        raise
    return True


def list(path: str = "/") -> list[Entry]:  # noqa: A001 - called as files.list
    """What a folder holds, by name."""
    with host_errors():
        return [_entry(entry) for entry in raw.list(path)]


def make_folder(path: str) -> None:
    """A folder with its parents; one that exists is fine."""
    with host_errors():
        raw.make_folder(path)


def remove(path: str, recursive: bool = False) -> None:
    """A file, an empty folder, or with `recursive` a folder and all in it. Raises PieError `not_found`."""
    with host_errors():
        raw.remove(path, recursive)


def rename(source: str, target: str) -> None:
    """Move, replacing a file that is there."""
    with host_errors():
        raw.rename(source, target)


def _encoded(content: bytes | str) -> str:
    return base64.b64encode(content.encode() if isinstance(content, str) else content).decode("ascii")


def _entry(entry: raw.Entry) -> Entry:
    return Entry(entry.name, entry.kind == raw.Kind.FOLDER, entry.size, entry.modified / 1e9)
