"""Compiled code on disk: found again by what it was compiled from and for, trusted only if this installation wrote it.

wasmtime runs whatever a `.cwasm` file says, so loading one that someone else wrote would be running their machine code.
Every entry carries a keyed digest; the key is made once per directory and readable by its owner alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
from pathlib import Path

import structlog

from pie_runner.wasm import ffi
from pie_runner.wasm.engine import EngineSettings

log = structlog.get_logger()

DEFAULT_LIMIT = 4 << 30
_DIGEST_BYTES = 32


class CodeCache:
    """A directory of `.cwasm` files with a size limit; the least recently used go first.

    Several processes may share it: entries appear by rename, and losing an entry between look-up and load is an error
    of the load, after which the caller compiles again.
    """

    def __init__(
        self, directory: Path, settings: EngineSettings | None = None, limit_bytes: int = DEFAULT_LIMIT
    ) -> None:
        self.directory = directory
        self._settings = settings or EngineSettings()
        self.limit_bytes = limit_bytes
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._key = _installation_key(directory / "key")

    def path(self, wasm_sha256: str) -> Path:
        """Where the code for that wasm is, if it is there."""
        return self.directory / f"{wasm_sha256}-{ffi.VERSION}-{self._settings.digest}.cwasm"

    def find(self, wasm_sha256: str) -> Path | None:
        """The entry, checked and marked as used; None when there is none. A forged or damaged one is removed."""
        path = self.path(wasm_sha256)
        if not path.exists():
            return None
        if not self.is_ours(path):
            log.warning("compiled code was not written by this installation; removed", path=str(path))
            self._remove(path)
            return None
        os.utime(path)
        return path

    def is_ours(self, path: Path) -> bool:
        """Whether this installation wrote that file and nobody changed it since. Reads all of it: ask once per load."""
        try:
            return hmac.compare_digest(_mac_path(path).read_bytes(), self._digest(path))
        except FileNotFoundError:
            return False

    def put(self, wasm_sha256: str, compiled: Path) -> Path:
        """Move a file that our own compiler just wrote into the cache. It must be on the same file system."""
        path = self.path(wasm_sha256)
        mac = self._digest(compiled)
        scratch = _mac_path(compiled)
        scratch.write_bytes(mac)
        scratch.replace(_mac_path(path))  # first: code without it counts as somebody else's
        compiled.replace(path)
        self.evict(keep=path)
        return path

    def scratch(self, wasm_sha256: str) -> Path:
        """A fresh name beside the entries for a compiler to write to."""
        return self.directory / f".{wasm_sha256[:16]}-{os.getpid()}-{secrets.token_hex(4)}.part"

    def evict(self, keep: Path | None = None) -> None:
        """Remove the least recently used entries beyond the size limit."""
        entries: list[tuple[float, int, Path]] = []
        for path in self.directory.glob("*.cwasm"):
            with contextlib.suppress(FileNotFoundError):  # another compiler evicts too
                stat = path.stat()
                entries.append((stat.st_mtime, stat.st_size, path))
        total = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if total <= self.limit_bytes:
                return
            if path != keep:
                self._remove(path)
                total -= size

    def _remove(self, path: Path) -> None:
        _mac_path(path).unlink(missing_ok=True)
        path.unlink(missing_ok=True)

    def _digest(self, path: Path) -> bytes:
        with path.open("rb") as file:
            digest = hashlib.blake2b(key=self._key, digest_size=_DIGEST_BYTES)
            while chunk := file.read(1 << 20):
                digest.update(chunk)
        return digest.digest()


def _mac_path(path: Path) -> Path:
    return path.with_suffix(path.suffix + ".mac")


def _installation_key(path: Path) -> bytes:
    fresh = path.with_name(f".key-{os.getpid()}-{secrets.token_hex(4)}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(secrets.token_bytes(32))
    try:
        # link refuses to replace: of several processes that start at once, one key wins.
        os.link(fresh, path)
    except FileExistsError:
        pass
    finally:
        fresh.unlink()
    key = path.read_bytes()
    if len(key) != 32 or path.stat().st_mode & 0o077:
        raise PermissionError(f"{path} must hold 32 bytes and be readable by its owner alone; remove it to start anew.")
    return key


def sha256_of(path: Path) -> str:
    """The hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
