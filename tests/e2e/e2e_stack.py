"""A whole stack of real processes, and what the system says about them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pie_cli.home import pie_home
from pie_cli.paths import StackPaths
from pie_cli.state import ServiceStatus, StackState, read_state
from pie_wire.errors import StoreUnavailable
from pie_wire.messages.common import MemberInfo, PoolStats
from pie_zmq import Client

T = TypeVar("T")

NOT_HANDED_ON = ("REDIS_URL", "PIE_CONFIG", "PIE_ENDPOINT", "PIE_HOME", "PIE_MODEL")
READY_WITHIN = 120.0
"""Seconds a stack has to come up, or a dead service to come back: a loaded machine takes long to load a model."""


def eventually(what: str, look: Callable[[], T | None], within: float = 10.0) -> T:
    """The first answer of `look` that is true. A store that is on its way back is asked again, as its error says."""
    deadline = time.monotonic() + within
    while True:
        try:
            found = look()
        except StoreUnavailable:
            if time.monotonic() >= deadline:
                raise
            found = None
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {within:g} s: {what}"
        time.sleep(0.05)


def processes_of(home: Path) -> dict[int, str]:
    """Command lines of the living processes that were started for a Pie home, by pid."""
    mark = f"PIE_HOME={home}".encode()
    found: dict[int, str] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        except OSError:
            continue  # It ended, or belongs to someone else.
    return {pid: command for pid, command in found.items() if command}  # A zombie has no command line.


def children_of(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _has_died(pid: int, by: signal.Signals) -> bool:
    """Gone, or a zombie, which has no memory left; else it is sent the signal once more."""
    try:
        if Path(f"/proc/{pid}/statm").read_text().startswith("0 "):
            return True
        os.kill(pid, by)
    except OSError:
        return True
    return False


@dataclass(frozen=True)
class Killed:
    """A service that was killed."""

    service: str
    restarts: int
    """How often it had been started again before."""
    family: set[int]
    """Its pid, and those of its own children."""
    at: float


class Stack:
    """`pie up` in a home of its own, which borrows models and what is compiled from the user's."""

    def __init__(
        self,
        model: str,
        runners: int = 1,
        settings: Mapping[str, str] | None = None,
        runners_for: Sequence[str] = (),
    ) -> None:
        self.model = model
        self._folder = tempfile.TemporaryDirectory(prefix="e2e-", dir="/tmp", ignore_cleanup_errors=True)
        self.home = Path(self._folder.name)
        self.paths = StackPaths(self.home)
        for name in ("models", "runtime", "code", "native"):
            (pie_home() / name).mkdir(parents=True, exist_ok=True)
            (self.home / name).symlink_to(pie_home() / name)
        self.environment = {key: value for key, value in os.environ.items() if key not in NOT_HANDED_ON}
        self.environment |= {"PIE_HOME": str(self.home), **(settings or {})}
        self._up = ["up", "--model", model, "--runners", str(runners), "--http-port", "0"]
        self._up += [word for tenant in runners_for for word in ("--runner-for", tenant)]
        self.supervisor: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return self.paths.endpoint("gateway")

    # -- life

    def up(self) -> None:
        with (self.home / "up.log").open("ab") as log:
            self.supervisor = subprocess.Popen(
                [sys.executable, "-m", "pie_cli", *self._up], env=self.environment, stdout=log, stderr=log
            )
        self.wait_ready()

    def wait_ready(self) -> StackState:
        """Until the supervisor sees all its services at work."""

        def ready() -> StackState | None:
            assert self.supervisor is not None
            assert self.supervisor.poll() is None, f"`pie up` ended:\n{(self.home / 'up.log').read_text()}"
            return self._state_if_ready()

        return eventually("the stack is ready", ready, READY_WITHIN)

    @property
    def is_whole(self) -> bool:
        return self.supervisor is not None and self.supervisor.poll() is None and self._state_if_ready() is not None

    def _state_if_ready(self) -> StackState | None:
        state = read_state(self.paths)
        if state is None or self.supervisor is None or state.supervisor != self.supervisor.pid:
            return None
        return state if state.phase == "ready" and all(s.state == "ready" for s in state.services) else None

    def close(self) -> None:
        """Stop everything, by force if need be, and forget the home."""
        if self.supervisor is not None and self.supervisor.poll() is None:
            self.supervisor.terminate()
            try:
                self.supervisor.wait(25)
            except subprocess.TimeoutExpired:
                self.supervisor.kill()
                self.supervisor.wait()
        for pid in processes_of(self.home):
            os.kill(pid, signal.SIGKILL)
        self._folder.cleanup()

    # -- what it consists of

    def services(self) -> dict[str, ServiceStatus]:
        state = read_state(self.paths)
        return {service.name: service for service in state.services} if state else {}

    def kill(self, service: str, by: signal.Signals = signal.SIGKILL) -> Killed:
        """A signal to a service that ends it. A SIGSEGV takes two: of those that no program of the runner caused,
        wasmtime's handler spends the first on putting back the system's own."""
        status = self.services()[service]
        family = {status.pid, *children_of(status.pid)}
        os.kill(status.pid, by)
        if by != signal.SIGKILL:
            eventually(f"{service} dies", lambda: _has_died(status.pid, by), 2.0)
        return Killed(service, status.restarts, family, time.monotonic())

    def redis(self) -> int:
        """Pid of the embedded server."""
        [pid] = children_of(self.services()["kvstore"].pid)
        return pid

    def wait_restarted(self, killed: Killed) -> None:
        """Until the supervisor has brought the service back and nothing of the dead one is left."""
        eventually(
            f"{killed.service} is restarted",
            lambda: self.services()[killed.service].restarts == killed.restarts + 1 and self._state_if_ready(),
            READY_WITHIN,
        )
        eventually("nothing of the dead is left", lambda: not killed.family & set(processes_of(self.home)), 5.0)

    # -- talking to it

    def client(self, **options: Any) -> Client:
        return Client(self.endpoint, **options)

    def pie(self, *arguments: str, within: float = 60.0, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """The command line, as a user has it."""
        return subprocess.run(
            [sys.executable, "-m", "pie_cli", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=within,
            cwd=cwd,
        )

    def status(self) -> dict[str, dict[str, Any]]:
        """`pie status --json`: the services by name."""
        return {row["name"]: row for row in json.loads(self.pie("status", "--json").stdout)["services"]}

    # -- what must hold when it is quiet

    def check_quiet(self) -> None:
        """No pages owned, no stray process, no lease but of the living: within a moment."""
        with self.client() as client:
            eventually("no pages are owned", lambda: _none_owned(self._pools(client)), 5.0)
            for pool in self._pools(client):
                assert pool.free + pool.cached + pool.owned == pool.total
            eventually("members are the living", lambda: self._members_live(client.status().members), 5.0)
        expected = {self.supervisor.pid if self.supervisor else 0, self.redis()}
        expected |= {service.pid for service in self.services().values()}
        eventually("no stray process", lambda: _strays(processes_of(self.home), expected) == [], 5.0)

    def _pools(self, client: Client) -> list[PoolStats]:
        engines = client.pages().engines
        return [engine.pool for engine in engines if not engine.rows] if engines else []

    def _members_live(self, members: list[MemberInfo]) -> bool:
        pids = {name: service.pid for name, service in self.services().items()}
        return {m.name: m.pid for m in members} == pids and {m.state for m in members} == {"up"}


def _strays(processes: dict[int, str], expected: set[int]) -> list[str]:
    """Those that are neither expected nor a service's compiler of grammars, which waits for the next one."""
    compiler = "pie_wire.grammars"
    others = {pid: command for pid, command in processes.items() if pid not in expected}
    return [command for command in others.values() if not command.endswith(compiler)]


def _none_owned(pools: list[PoolStats]) -> bool:
    return bool(pools) and all(pool.owned == 0 for pool in pools)


class Stacks:
    """Gives out the stack that a test asks for, and stops the one before."""

    def __init__(self) -> None:
        self._name = ""
        self._stack: Stack | None = None

    def get(self, name: str, model: str, runners: int = 1, runners_for: Sequence[str] = (), **settings: str) -> Stack:
        if self._stack is None or self._name != name or not self._stack.is_whole:
            self.close()
            self._name, self._stack = name, Stack(model, runners, settings, runners_for)
            self._stack.up()
        return self._stack

    def close(self) -> None:
        if self._stack is not None:
            self._stack.close()
            self._stack = None
