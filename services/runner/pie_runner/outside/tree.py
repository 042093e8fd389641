"""A folder that a program may fill. Paths are walked name by name from an open folder, never following a link, so that
whatever lies in it leads nowhere else.

FOLDER/files/  what the program sees      FOLDER/new/  writes under way      FOLDER/lock  held while something changes,
and the count of what there is
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
import stat
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import structlog
from pie_wire.errors import (
    BadRequest,
    Closed,
    Conflict,
    Forbidden,
    LimitExceeded,
    NotFound,
    PieError,
    QuotaExceeded,
    Unavailable,
)

from pie_runner.outside.ledger import REFUSAL_SECONDS, Ledger
from pie_runner.process_limits import of_runner

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK

MAX_DEPTH = 64
"""Of folders in folders: walks hold one open at each level."""
LOCK_SECONDS = 5.0
"""How long a change waits for others of the same folder: on a disk that hangs it must not keep a worker for ever."""
LOCK_PAUSE = 0.005

log = structlog.get_logger("pie.files")


@dataclass(frozen=True)
class TreeLimits:
    """`name` is the setting that `bytes` comes from, `where` says where the operator sets one."""

    name: str
    bytes: int
    entries: int
    file_bytes: int
    where: Callable[[str], str] = of_runner


@dataclass(frozen=True)
class Entry:
    """The WIT's `entry`. `modified` in nanoseconds since 1970."""

    name: str
    kind: Literal["file", "folder"]
    size: int
    modified: int


Parts = Sequence[str]


class Tree:
    """Thread-safe; every method may take as long as the disk does, and raises PieError. Writes of a `durable` tree are
    on the disk when they return."""

    def __init__(self, folder: Path, limits: TreeLimits, *, durable: bool) -> None:
        self._folder = folder
        self._limits = limits
        self._durable = durable
        self._lock = threading.Lock()
        self._destroyed = False

    def read(self, parts: Parts, offset: int, length: int) -> bytes:
        """At most `length` bytes from `offset`."""
        with self._parent(parts) as (folder, name), _opened(folder, name, os.O_RDONLY) as file:
            return os.pread(file, length, min(offset, 1 << 62))

    def write(self, parts: Parts, content: bytes) -> None:
        """Replace or make a file, as a whole or not at all."""
        with self._changing() as ledger, self._parent(parts) as (folder, name), self._folder_new() as new:
            old = _size(folder, name)
            self._afford(ledger, len(content), -(old or 0), old is None)
            part, is_new = secrets.token_hex(8), int(old is None)
            with ledger.change(len(content), is_new) as change:
                try:
                    file = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FILE, 0o600, dir_fd=new)
                    try:
                        _write_all(file, content)
                        self._sync(file)
                    finally:
                        os.close(file)
                    os.rename(part, name, src_dir_fd=new, dst_dir_fd=folder)
                except BaseException:
                    _unlink_quietly(part, new)
                    raise
                self._sync(folder)
                change.bytes, change.entries = len(content) - (old or 0), is_new

    def append(self, parts: Parts, content: bytes) -> None:
        """Add to the end of a file, which is made if it is not there. What fails half-way is taken back."""
        with self._changing() as ledger, self._parent(parts) as (folder, name):
            old = _size(folder, name)
            self._afford(ledger, (old or 0) + len(content), -(old or 0), old is None)
            is_new = int(old is None)
            with (
                ledger.change(len(content), is_new) as change,
                _opened(folder, name, os.O_WRONLY | os.O_APPEND | os.O_CREAT) as file,
            ):
                try:
                    _write_all(file, content)
                except BaseException:
                    os.ftruncate(file, old or 0)
                    raise
                self._sync(file)
                change.bytes, change.entries = len(content), is_new

    def stat(self, parts: Parts) -> Entry:
        """What is there."""
        if not parts:
            with self._open(()) as root:
                return _entry("", os.fstat(root))
        with self._parent(parts) as (folder, name):
            return _entry(name, os.stat(name, dir_fd=folder, follow_symlinks=False))

    def list(self, parts: Parts, at_most: int) -> list[Entry]:
        """What a folder holds, by name."""
        with self._open(parts) as folder, os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries)[:at_most]
            return [_entry(name, os.stat(name, dir_fd=folder, follow_symlinks=False)) for name in names]

    def make_folder(self, parts: Parts) -> None:
        """A folder and its parents."""
        with self._changing() as ledger:
            self._afford(ledger, 0, 0, True, more=len(parts))
            with ledger.change(0, len(parts)) as change:
                for depth in range(1, len(parts) + 1):
                    with self._parent(parts[:depth]) as (folder, name):
                        try:
                            os.mkdir(name, 0o700, dir_fd=folder)
                        except FileExistsError:
                            continue
                        change.entries += 1
            with self._open(parts):
                pass  # raises if the last one is a file

    def remove(self, parts: Parts, *, recursive: bool) -> None:
        """A file; or a folder, if it is empty or with all in it."""
        with self._changing() as ledger, self._parent(parts) as (folder, name):
            found = os.stat(name, dir_fd=folder, follow_symlinks=False)
            with ledger.change() as change:
                size, entries = 0, 0
                if not stat.S_ISDIR(found.st_mode):
                    size = found.st_size
                    os.unlink(name, dir_fd=folder)
                elif recursive:
                    size, entries = _usage(name, folder)
                    shutil.rmtree(name, dir_fd=folder)
                else:
                    os.rmdir(name, dir_fd=folder)
                change.bytes, change.entries = -size, -entries - 1

    def rename(self, source: Parts, target: Parts) -> None:
        """Move, replacing a file that is there."""
        with (
            self._changing() as ledger,
            self._parent(source) as (folder, name),
            self._parent(target) as (to, new_name),
        ):
            if len(target) + _height(folder, name) > MAX_DEPTH:
                raise BadRequest(f"folders would lie more than {MAX_DEPTH} deep")
            moved, replaced = _found(folder, name), _found(to, new_name)
            with ledger.change() as change:
                os.rename(name, new_name, src_dir_fd=folder, dst_dir_fd=to)
                if replaced is not None and (moved is None or not os.path.samestat(moved, replaced)):
                    change.bytes = 0 if stat.S_ISDIR(replaced.st_mode) else -replaced.st_size
                    change.entries = -1

    def destroy(self) -> None:
        """Remove everything, once what is under way has ended. Nothing can be done with it afterwards."""
        with self._lock:
            self._destroyed = True
            shutil.rmtree(self._folder, ignore_errors=True)
        if self._folder.exists():
            log.warning("a folder could not be removed", folder=str(self._folder))

    # -- inside

    @contextmanager
    def _changing(self) -> Generator[Ledger]:
        """One change at a time, over all runners that share the folder. Raises Unavailable if it cannot begin."""
        deadline = time.monotonic() + LOCK_SECONDS
        if not self._lock.acquire(timeout=LOCK_SECONDS):
            raise _busy()
        try:
            if self._destroyed:
                raise Closed("the process has ended")
            for name in ("files", "new"):
                (self._folder / name).mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | _FILE, 0o600)
            try:
                _take(lock, deadline)
                yield Ledger(lock, lambda: _usage(str(self._folder / "files")))
            finally:
                os.close(lock)
        except OSError as exc:
            raise _typed(exc) from exc
        finally:
            self._lock.release()

    @contextmanager
    def _open(self, parts: Parts) -> Generator[int]:
        """The folder at `parts`."""
        try:
            fd = os.open(self._folder / "files", _FOLDER)
        except FileNotFoundError:
            if not parts:
                with self._changing():
                    fd = os.open(self._folder / "files", _FOLDER)
            else:
                raise NotFound(f"there is no {parts[0]!r}") from None
        try:
            for part in parts:
                try:
                    inner = os.open(part, _FOLDER, dir_fd=fd)
                except OSError as exc:
                    raise _not_walked(exc, part, fd) from exc
                os.close(fd)
                fd = inner
            yield fd
        except OSError as exc:
            raise _typed(exc) from exc
        finally:
            os.close(fd)

    @contextmanager
    def _parent(self, parts: Parts) -> Generator[tuple[int, str]]:
        """The folder that holds the last name, and that name."""
        if not parts:
            raise BadRequest("this needs the path of something in /scratch or /data, not of these themselves")
        with self._open(parts[:-1]) as folder:
            yield folder, parts[-1]

    @contextmanager
    def _folder_new(self) -> Generator[int]:
        """Empty: whoever holds the lock is the only one who writes, so that what is there was left by one who died."""
        fd = os.open(self._folder / "new", _FOLDER)
        try:
            with os.scandir(fd) as left:
                for entry in left:
                    _unlink_quietly(entry.name, fd)
            yield fd
        finally:
            os.close(fd)

    def _afford(self, ledger: Ledger, size: int, less: int, is_new: bool, more: int = 1) -> None:
        """Raise unless a file may have `size`, and all of them so much."""
        limits = self._limits
        if size > limits.file_bytes:
            raise LimitExceeded(
                f"a file of {size} bytes passes the limit file_bytes = {limits.file_bytes}; the operator can raise it "
                f"({limits.where('file_bytes')})"
            )
        count = ledger.count()
        if count.bytes + less + size > limits.bytes or (is_new and count.entries + more > limits.entries):
            count = ledger.count(REFUSAL_SECONDS)
        if count.bytes + less + size > limits.bytes:
            raise QuotaExceeded(
                f"{count.bytes} bytes are kept; with this it would be more than {limits.name} = {limits.bytes}: remove "
                f"some; the operator can raise it ({limits.where(limits.name)})"
            )
        if is_new and count.entries + more > limits.entries:
            raise QuotaExceeded(
                f"{count.entries} files and folders are kept, and file_entries = {limits.entries}: remove some; the "
                f"operator can raise it ({limits.where('file_entries')})"
            )

    def _sync(self, fd: int) -> None:
        if self._durable:
            os.fsync(fd)


@contextmanager
def _opened(folder: int, name: str, flags: int) -> Generator[int]:
    """A regular file, which has no other name: by that it might be somebody else's."""
    fd = os.open(name, flags | _FILE, 0o600, dir_fd=folder)
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise BadRequest(f"{name!r} is no file")
        if found.st_nlink > 1:
            raise Forbidden(f"{name!r} is a link: the file has other names, perhaps elsewhere; write it anew")
        yield fd
    finally:
        os.close(fd)


def _write_all(fd: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(fd, rest) :]


def _size(folder: int, name: str) -> int | None:
    """Of a file; None if it is not there."""
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found.st_mode):
        raise BadRequest(f"{name!r} is no file")
    return found.st_size


def _found(folder: int, name: str) -> os.stat_result | None:
    """What is there, if anything."""
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _take(lock: int, deadline: float) -> None:
    """Lock a file. Raises Unavailable when others have it until the deadline."""
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise _busy() from None
            time.sleep(LOCK_PAUSE)
        else:
            return


def _busy() -> Unavailable:
    return Unavailable(f"other changes of these files have taken more than {LOCK_SECONDS:g} s: try again")


def _usage(folder: str, within: int | None = None) -> tuple[int, int]:
    """Bytes and number of what lies in a folder, itself left out. `within`: the open one that its name is in."""
    size = entries = 0
    for _, folders, files, fd in os.fwalk(folder, follow_symlinks=False, dir_fd=within):
        entries += len(folders) + len(files)
        size += sum(os.stat(name, dir_fd=fd, follow_symlinks=False).st_size for name in files)
    return size, entries


def _height(folder: int, name: str) -> int:
    """How many levels lie below something."""
    walk = os.fwalk(name, dir_fd=folder, follow_symlinks=False)
    return max((path.count("/") + bool(folders or files) for path, folders, files, _ in walk), default=0)


def _entry(name: str, found: os.stat_result) -> Entry:
    folder = stat.S_ISDIR(found.st_mode)
    return Entry(name, "folder" if folder else "file", 0 if folder else found.st_size, found.st_mtime_ns)


def _unlink_quietly(name: str, folder: int) -> None:
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        pass  # it has its final name, or was never made


def _not_walked(exc: OSError, part: str, folder: int) -> PieError:
    """Why a folder could not be entered."""
    if exc.errno == errno.ENOENT:
        return NotFound(f"there is no folder {part!r}: make it first")
    if exc.errno in (errno.ENOTDIR, errno.ELOOP):
        if stat.S_ISLNK(os.stat(part, dir_fd=folder, follow_symlinks=False).st_mode):
            return Forbidden(f"{part!r} is a link, which is not followed")
        return BadRequest(f"{part!r} is a file, not a folder")
    return _typed(exc)


def _typed(exc: OSError) -> PieError:
    match exc.errno:
        case errno.ENOENT:
            return NotFound("there is no such file or folder")
        case errno.ELOOP:
            return Forbidden("it is a link, which is not followed")
        case errno.EISDIR | errno.ENOTDIR | errno.EINVAL | errno.ENAMETOOLONG | errno.ENXIO:
            return BadRequest(f"that cannot be done with it: {exc.strerror}")
        case errno.EEXIST | errno.ENOTEMPTY:
            return Conflict("the folder is not empty")
        case errno.ENOSPC | errno.EDQUOT | errno.EFBIG:
            return QuotaExceeded(f"the runner's disk takes no more: {exc.strerror}")
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return Forbidden(f"the runner may not do that: {exc.strerror}")
        case _:
            return Unavailable(f"the disk failed: {exc.strerror}")
