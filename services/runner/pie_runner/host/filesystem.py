"""Files. Every function parks the fiber while a worker thread asks the disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from pie_wire.errors import BadRequest, TooLarge

from pie_runner.base64_pieces import decoded, encoded
from pie_runner.host.offloaded import offloaded
from pie_runner.outside.file_paths import FilePath
from pie_runner.outside.tree import Entry, Tree
from pie_runner.process import process_of
from pie_runner.wasm.hostcall import HostFunction, Ok, Pending

if TYPE_CHECKING:
    from pie_runner.wasm.fiber import Fiber

CALL_BYTES = 16 << 20
"""Read or written by one call; more takes several."""
MAX_LISTED = 10_000


def read(fiber: Fiber, path: str, offset: int, length: int) -> Pending:
    """A piece of a file."""
    place = _place(fiber, path)
    count = min(length, CALL_BYTES)
    return _done(fiber, place, lambda tree: encoded(tree.read(place.parts, offset, count)))


def write(fiber: Fiber, path: str, content: str) -> Pending:
    """A whole file."""
    place = _place(fiber, path)
    _check_size(content)
    return _done(fiber, place, lambda tree: tree.write(place.parts, decoded(content, "the content")))


def append(fiber: Fiber, path: str, content: str) -> Pending:
    """To the end of a file."""
    place = _place(fiber, path)
    _check_size(content)
    return _done(fiber, place, lambda tree: tree.append(place.parts, decoded(content, "the content")))


def stat(fiber: Fiber, path: str) -> Pending:
    """What is there."""
    place = _place(fiber, path)
    return _done(fiber, place, lambda tree: tree.stat(place.parts))


def list_folder(fiber: Fiber, path: str) -> Ok | Pending:
    """What a folder holds."""
    if path == "/":
        return Ok(process_of(fiber).outside.files.granted_rooms())
    place = _place(fiber, path)
    return _done(fiber, place, lambda tree: tree.list(place.parts, MAX_LISTED))


def make_folder(fiber: Fiber, path: str) -> Pending:
    """A folder and its parents."""
    place = _place(fiber, path)
    return _done(fiber, place, lambda tree: tree.make_folder(place.parts))


def remove(fiber: Fiber, path: str, recursive: bool) -> Pending:
    """A file or folder."""
    place = _place(fiber, path)
    return _done(fiber, place, lambda tree: tree.remove(place.parts, recursive=recursive))


def rename(fiber: Fiber, source: str, target: str) -> Pending:
    """Move within one room."""
    place, to = _place(fiber, source), _place(fiber, target)
    if place.room != to.room:
        raise BadRequest(f"{place} cannot be moved to another room, {to}: read it and write it there")
    return _done(fiber, place, lambda tree: tree.rename(place.parts, to.parts))


def _place(fiber: Fiber, path: str) -> FilePath:
    return process_of(fiber).outside.files.place(path)


def _done(fiber: Fiber, place: FilePath, action: Callable[[Tree], Entry | list[Entry] | bytes | None]) -> Pending:
    files = process_of(fiber).outside.files
    work = files.work(place, action)
    return offloaded(fiber, lambda: Ok(work()), files.offload)


def _check_size(content: str) -> None:
    if len(content) > CALL_BYTES // 3 * 4 + 4:
        raise TooLarge(f"one call writes at most {CALL_BYTES} bytes: append the rest")


FUNCTIONS: Mapping[str, HostFunction] = {
    "read": read,
    "write": write,
    "append": append,
    "stat": stat,
    "list": list_folder,
    "make-folder": make_folder,
    "remove": remove,
    "rename": rename,
}
