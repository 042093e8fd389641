"""Program files on disk by digest, shared by the runners of a host."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
from pathlib import Path

from pie_wire.errors import BadField, HashMismatch

_SHA256 = re.compile(r"[0-9a-f]{64}")


class DiskCache:
    """Entries appear by rename; the least recently used go first once `limit` bytes are exceeded."""

    def __init__(self, directory: Path, limit: int) -> None:
        self.directory = directory
        self._limit = limit
        self._prefix = f"{directory}{os.sep}"
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)

    def path(self, sha256: str) -> Path:
        """Where an artifact is or would be.

        Raises:
            BadField: that is no digest.
        """
        _check(sha256)
        return self.directory / sha256

    def has(self, sha256: str) -> bool:
        """Whether it is there, and used now. Raises BadField. Asked at every launch: hence no Path."""
        _check(sha256)
        try:
            os.utime(self._prefix + sha256)
        except FileNotFoundError:
            return False
        return True

    def read(self, sha256: str) -> bytes:
        """The bytes, checked again: a file on disk may have been damaged.

        Raises:
            HashMismatch: it was; the entry is gone now.
        """
        path = self.path(sha256)
        try:
            data = path.read_bytes()
        except FileNotFoundError as exc:
            raise HashMismatch(f"program {sha256[:12]} has just been evicted: launch again") from exc
        if hashlib.sha256(data).hexdigest() != sha256:
            path.unlink(missing_ok=True)
            raise HashMismatch(f"the cached program {sha256[:12]} was damaged and has been removed: launch again")
        return data

    def write(self, sha256: str, data: bytes) -> None:
        path = self.path(sha256)
        scratch = path.with_name(f".{sha256[:16]}-{os.getpid()}-{secrets.token_hex(4)}.part")
        try:
            scratch.write_bytes(data)
            scratch.replace(path)
        finally:
            scratch.unlink(missing_ok=True)
        self._evict(keep=path)

    def _evict(self, keep: Path) -> None:
        entries: list[tuple[float, int, Path]] = []
        for path in self.directory.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another runner evicts too
                stat = path.stat()
                entries.append((stat.st_mtime, stat.st_size, path))
        total = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if total <= self._limit:
                return
            if path != keep:
                path.unlink(missing_ok=True)
                total -= size


def _check(sha256: str) -> None:
    if not _SHA256.fullmatch(sha256):
        raise BadField(f"{sha256[:80]!r} is not a SHA-256 digest in lower-case hex")
