"""How much lies in a folder that programs fill, without counting it each time.

The count stands in the folder's lock file and belongs to who holds the lock. It is raised before something is made and
lowered after something is gone, so that after a crash it is too high at worst. It is counted anew when it is old, when
the machine was started since (a power loss may have kept files and not the count), and before it refuses anything.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

KEPT_SECONDS = 600.0
"""How long a count is believed: who changes files behind the runners' backs is noticed then."""
REFUSAL_SECONDS = 10.0
"""How old a count may be that refuses something. Counting takes long where there is much: not for each refusal."""
RECORD_BYTES = 512


class Count(msgspec.Struct, frozen=True):
    """As it stands in the lock file."""

    bytes: int
    entries: int
    """Files and folders."""
    at: float
    """Unix time at which they were counted."""
    boot: str


@dataclass
class Change:
    """What a change came to: set by who makes it, once it is made."""

    bytes: int = 0
    entries: int = 0


class Ledger:
    """Of one folder, as long as the lock is held. `lock` is the file, open for reading and writing; `recount` walks the
    folder for its bytes and entries."""

    def __init__(self, lock: int, recount: Callable[[], tuple[int, int]]) -> None:
        self._lock = lock
        self._recount = recount
        self._count = self._read()

    def count(self, younger_than: float = KEPT_SECONDS) -> Count:
        """What there is, not less. Counted anew unless that was done so many seconds ago."""
        now, count = time.time(), self._count
        if count is None or count.boot != _boot() or not 0 <= now - count.at < younger_than:
            size, entries = self._recount()
            count = Count(size, entries, now, _boot())
            self._write(count)
        return count

    @contextmanager
    def change(self, more_bytes: int = 0, more_entries: int = 0) -> Generator[Change]:
        """Something is made or removed within the block, which adds at most so much."""
        before, change = self._count, Change()
        if before is None:
            yield change
            return
        if more_bytes or more_entries:
            self._write(_added(before, more_bytes, more_entries))
        yield change  # on an error what it had made so far is covered
        if (change.bytes, change.entries) != (more_bytes, more_entries):
            self._write(_added(before, change.bytes, change.entries))

    def _read(self) -> Count | None:
        try:
            return msgspec.json.decode(os.pread(self._lock, RECORD_BYTES, 0), type=Count)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None  # nobody has counted yet, or the machine has lost what was written

    def _write(self, count: Count) -> None:
        self._count = count
        os.pwrite(self._lock, msgspec.json.encode(count).ljust(RECORD_BYTES), 0)


def _added(count: Count, size: int, entries: int) -> Count:
    return msgspec.structs.replace(count, bytes=max(0, count.bytes + size), entries=max(0, count.entries + entries))


@functools.cache
def _boot() -> str:
    """Which start of the machine this is. Where it cannot be told, each process counts for itself."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return f"{os.getpid()}-{time.time()}"
