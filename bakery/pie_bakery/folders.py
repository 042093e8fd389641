"""Folders that a build writes: changed only where their content changes, so that compilers see what is new."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path


def sdk_folder() -> Path:
    """Where the installed SDK's files are."""
    return Path(str(files("pie_sdk")))


def tree(folder: Path, pattern: str) -> dict[str, bytes]:
    """The files of a folder that match, by their path in it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.glob(pattern)) if path.is_file()}


def place(content: Mapping[str, bytes], folder: Path) -> None:
    """Make a folder hold these files and no others. Files that are right already are not touched."""
    for path in list(folder.rglob("*")):
        if path.is_file() and str(path.relative_to(folder)) not in content:
            path.unlink()
    for name, data in content.items():
        path = folder / name
        if not path.is_file() or path.read_bytes() != data:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


@contextmanager
def locked(path: Path, waiting: Callable[[], None]) -> Generator[None]:
    """Hold a file's lock; `waiting` is called when another process has it."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
