"""Files that programs send, saved where the user said and nowhere else."""

from __future__ import annotations

import os
from pathlib import Path

from pie_wire.errors import BadRequest, Conflict
from pie_wire.file_names import MAX_NAME_BYTES, file_name

TRIES = 1000


class SaveFolder:
    """A folder for files whose names others choose. A name is one of this folder or is refused; nothing that exists is
    touched: a second `a.txt` is saved as `a-1.txt`."""

    def __init__(self, path: Path) -> None:
        """Make the folder if need be. Raises BadRequest if that cannot be."""
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as exc:
            raise BadRequest(f"cannot save files to {path}: {exc.strerror}") from exc
        self._path = path

    def save(self, name: str, data: bytes) -> Path:
        """Write a file; returns where. Raises BadRequest: no plain name, or it cannot be written. Conflict: too many of
        that name."""
        stem, dot, suffix = file_name(name).rpartition(".")
        if not stem:
            stem, dot, suffix = name, "", ""
        for number in range(TRIES):
            chosen = f"{stem}-{number}{dot}{suffix}" if number else name
            if len(chosen.encode()) > MAX_NAME_BYTES:
                break
            try:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
                descriptor = os.open(chosen, flags, 0o644, dir_fd=self._folder)
                with os.fdopen(descriptor, "wb") as file:
                    file.write(data)
            except FileExistsError:
                continue
            except OSError as exc:
                raise BadRequest(f"cannot write {self._path / chosen}: {exc.strerror}") from exc
            return self._path / chosen
        raise Conflict(f"{self._path} has too many files called {name!r}")

    def close(self) -> None:
        os.close(self._folder)
