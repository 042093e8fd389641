"""Compiles the native kernels once and keeps the library in a folder.

A library's name is made of the instruction set, a digest of sources and flags, and one of the compiler, so nothing in
the folder is ever overwritten with something else. One process builds at a time (file lock); a finished library appears
by rename. Beside it lies the digest of its bytes, since loading half a library would end the process.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import structlog

_COMPILERS: Final = ("g++", "clang++", "c++")
_COMMON: Final = (
    "-std=c++20",
    "-O3",
    "-fPIC",
    "-pthread",
    "-fvisibility=hidden",
    "-fno-math-errno",
    "-fno-trapping-math",
)
_LINK: Final = ("-shared", "-pthread")
_LIMIT: Final = 300.0
_KEPT_DAYS: Final = 30
_SAID: Final = 600

log = structlog.get_logger("pie.engine")


class BuildError(Exception):
    """Why there is no library, in a sentence with the remedy."""


def build(sources: Path, folder: Path, isa: str, flags: Sequence[str]) -> Path:
    """The library of the sources under `sources`, compiled with `flags` unless `folder` has it. Raises BuildError.

    Without a compiler, a library that some compiler made of the same sources will do.
    """
    compiler = find_compiler()
    stem = f"{isa}-{_digest_of_sources(sources, flags)}"
    if compiler is None:
        for found in sorted(folder.glob(f"{stem}-*.so")):
            if _is_sound(found):
                return found
        raise BuildError("no C++ compiler found: install g++ or clang++ (or name one in CXX) and start again")
    path = folder / f"{stem}-{_digest(_identity(compiler))[:8]}.so"
    if _is_sound(path):
        os.utime(path)
        return path
    with _locked(folder):
        if not _is_sound(path):
            try:
                _compile(compiler, sources, flags, path)
            except OSError as exc:
                raise BuildError(f"the native kernels cannot be kept in {folder}: {exc.strerror}") from exc
            _forget_old(folder)
    return path


def rebuild(sources: Path, folder: Path, isa: str, flags: Sequence[str]) -> Path:
    """Like `build`, but what is in the folder for these sources is thrown away first."""
    with _locked(folder):
        for found in folder.glob(f"{isa}-{_digest_of_sources(sources, flags)}-*"):
            found.unlink()
    return build(sources, folder, isa, flags)


def find_compiler() -> tuple[str, ...] | None:
    """The command that compiles C++: CXX, or the first of g++, clang++ and c++ that is installed."""
    named = shlex.split(os.environ.get("CXX", ""))
    if named and shutil.which(named[0]):
        return tuple(named)
    found = next((name for name in _COMPILERS if shutil.which(name)), None)
    return (found,) if found else None


def _compile(compiler: tuple[str, ...], sources: Path, flags: Sequence[str], path: Path) -> None:
    """Every source by itself, two at a time, then linked. The caller holds the lock."""
    files = sorted(sources.glob("*.cpp"))
    log.info("compiling the native kernels", compiler=shlex.join(compiler), sources=len(files), file=str(path))
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="build-", dir=path.parent) as scratch:
        objects = [Path(scratch, f"{file.stem}.o") for file in files]

        def compile_one(file: Path, target: Path) -> None:
            _run([*compiler, *_COMMON, *flags, "-c", str(file), "-o", str(target)])

        with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
            list(pool.map(compile_one, files, objects))
        made = Path(scratch, "library.so")
        _run([*compiler, *_LINK, *map(str, objects), "-o", str(made)])
        mark = Path(scratch, "mark")
        mark.write_text(_digest(made.read_bytes()))
        mark.replace(_mark(path))
        made.replace(path)
    log.info("native kernels compiled", seconds=round(time.monotonic() - started, 1))


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT, check=False)
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise BuildError(f"the C++ compiler does not run: {exc}") from exc
    if done.returncode != 0:
        said = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr)
        raise BuildError(f"the C++ compiler refuses the kernels: {said.strip()[:_SAID]}")


def _identity(compiler: tuple[str, ...]) -> bytes:
    """What the compiler says about its version."""
    try:
        done = subprocess.run([*compiler, "--version"], capture_output=True, timeout=_LIMIT, check=False)
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise BuildError(f"the C++ compiler does not run: {exc}") from exc
    return shlex.join(compiler).encode() + done.stdout


def _digest_of_sources(sources: Path, flags: Sequence[str]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    digest.update(" ".join((*_COMMON, *flags, *_LINK)).encode())
    for file in sorted([*sources.glob("*.cpp"), *sources.glob("*.h")]):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _mark(path: Path) -> Path:
    return path.with_suffix(".digest")


def _is_sound(path: Path) -> bool:
    """The library is there, whole."""
    try:
        return _mark(path).read_text() == _digest(path.read_bytes())
    except OSError:
        return False


def _forget_old(folder: Path) -> None:
    """Libraries of sources and compilers that nobody has used for a month."""
    limit = time.time() - _KEPT_DAYS * 86_400
    for found in folder.glob("*.so"):
        if found.stat().st_mtime < limit:
            found.unlink()
            _mark(found).unlink(missing_ok=True)


@contextmanager
def _locked(folder: Path) -> Generator[None]:
    """Alone among processes that build into this folder; the system frees the lock of one that dies."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError as exc:
        raise BuildError(f"{folder} cannot be written: {exc.strerror}; set PIE_HOME to a folder of yours") from exc
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("another process compiles the native kernels: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
