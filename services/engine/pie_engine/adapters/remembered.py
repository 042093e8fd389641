"""Which adapters an engine has loaded, in a file, so that its successor loads them before it takes any work."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import structlog

log = structlog.get_logger("pie.engine")


class _Contents(msgspec.Struct):
    model: str
    folders: dict[str, str]


class RememberedAdapters:
    """Names and folders. One file has one engine; that of another model is not looked at, and in the end replaced."""

    def __init__(self, path: Path, model: str) -> None:
        self._path = path
        self._contents = _Contents(model, {})
        try:
            found = msgspec.json.decode(path.read_bytes(), type=_Contents)
        except FileNotFoundError:
            return
        except (OSError, msgspec.DecodeError) as exc:
            log.warning("the file of loaded adapters cannot be read: load them again", path=str(path), reason=str(exc))
            return
        if found.model == model:
            self._contents = found

    @property
    def folders(self) -> dict[str, str]:
        """Of each adapter, in the order in which they were loaded."""
        return dict(self._contents.folders)

    def keep(self, name: str, folder: str) -> None:
        """It has been loaded."""
        if self._contents.folders.get(name) != folder:
            self._contents.folders.pop(name, None)
            self._contents.folders[name] = folder
            self._write()

    def forget(self, name: str) -> None:
        """It has been unloaded."""
        if self._contents.folders.pop(name, None) is not None:
            self._write()

    def _write(self) -> None:
        scratch = self._path.with_name(f".{self._path.name}.{os.getpid()}.part")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            scratch.write_bytes(msgspec.json.encode(self._contents))
            scratch.replace(self._path)
        except OSError as exc:
            log.warning(
                "loaded adapters cannot be remembered: a restarted engine will not have them",
                path=str(self._path),
                reason=str(exc),
            )
