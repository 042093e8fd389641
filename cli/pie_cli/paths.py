"""Where one stack keeps its sockets, logs and state. Several stacks differ by their Pie home."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pie_wire.errors import BadRequest

from pie_cli.home import pie_home

MAX_SOCKET_PATH = 100
LONGEST_SOCKET_NAME = 24


@dataclass(frozen=True)
class StackPaths:
    """The folders of a stack; none need exist yet."""

    home: Path

    @classmethod
    def default(cls) -> StackPaths:
        return cls(pie_home())

    @property
    def logs(self) -> Path:
        return self.home / "logs"

    @property
    def state(self) -> Path:
        return self.home / "run" / "pie.json"

    @property
    def lock(self) -> Path:
        """Held by the supervisor for as long as it lives."""
        return self.home / "run" / "pie.lock"

    @property
    def sockets(self) -> Path:
        """`run` in the home or, where that path is too long for a Unix socket, a private folder in /tmp."""
        run = self.home / "run"
        if len(os.fsencode(run)) + 1 + LONGEST_SOCKET_NAME <= MAX_SOCKET_PATH:
            return run
        mark = hashlib.sha256(os.fsencode(self.home)).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"pie-{os.getuid()}-{mark}"

    def endpoint(self, name: str) -> str:
        return f"ipc://{self.sockets / name}.sock"

    def remove_sockets(self) -> None:
        """Clear away what processes that have ended left behind. For the holder of `lock`."""
        for path in self.sockets.glob("*.sock"):
            path.unlink(missing_ok=True)

    def log(self, service: str) -> Path:
        return self.logs / f"{service}.log"

    def make(self) -> None:
        """Create the folders, readable by this user alone. Raises BadRequest if that cannot be or is not so."""
        try:
            self.home.mkdir(parents=True, exist_ok=True)
            for folder in (self.state.parent, self.logs, self.sockets):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = self.sockets.lstat()
        except OSError as exc:
            raise BadRequest(f"cannot use {self.home}: {exc.strerror}; set PIE_HOME to a folder you own") from exc
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
            raise BadRequest(f"{self.sockets} belongs to another user: set PIE_HOME to a shorter folder")
