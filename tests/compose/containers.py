"""What the tests here do to a stack of containers."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pie_zmq import Client

ROOT = Path(__file__).resolve().parents[2]
PROJECT = "pie-e2e"
RUNNERS = 2

KILL = """
import os, signal
from contextlib import suppress
for entry in filter(str.isdigit, os.listdir("/proc")):
    with suppress(FileNotFoundError, ProcessLookupError), open(f"/proc/{entry}/stat") as file:
        if file.read().rpartition(")")[2].split()[1] == "1":
            os.kill(int(entry), signal.SIGKILL)
"""
"""Kills what a container's init has started, which a signal from inside cannot do to process 1."""


@dataclass(frozen=True)
class Stack:
    """The project `pie-e2e`, on two free ports of this machine."""

    environment: dict[str, str] = field(repr=False)
    endpoint: str
    http: str

    def compose(self, *arguments: str, check: bool = True, timeout: float = 300) -> str:
        """What `docker compose` prints. Raises AssertionError with what it complains of."""
        command = ["docker", "compose", "-p", PROJECT, *arguments]
        done = subprocess.run(command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=timeout)
        if check and done.returncode != 0:
            raise AssertionError(f"{' '.join(command)}: {done.stderr[-4000:]}")
        return done.stdout

    def up(self) -> None:
        arguments = ["--build", "--detach", "--wait", "--wait-timeout", "900", "--scale", f"runner={RUNNERS}"]
        self.compose("up", *arguments, timeout=1500)

    def containers(self, *services: str) -> list[dict[str, Any]]:
        """Compose's rows, running or not."""
        lines = self.compose("ps", "--all", "--format", "json", *services).splitlines()
        return [json.loads(line) for line in lines if line]

    def is_healthy(self, service: str, count: int = 1) -> bool:
        return [row["Health"] for row in self.containers(service)] == ["healthy"] * count

    def docker(self, *arguments: str, check: bool = True) -> str:
        """What `docker` prints."""
        command = ["docker", *arguments]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60, check=check)
        return done.stdout

    def inspect(self, service: str, template: str) -> list[str]:
        """A fact of each container of a service."""
        ids = [row["ID"] for row in self.containers(service)]
        return self.docker("inspect", "--format", template, *ids).split()

    def address(self, container: str, network: str) -> str:
        """The IP address of a container on a network."""
        template = f'{{{{(index .NetworkSettings.Networks "{network}").IPAddress}}}}'
        return self.docker("inspect", "--format", template, container).strip()

    def restarts(self, service: str) -> int:
        """How often containers of a service have been restarted."""
        return sum(map(int, self.inspect(service, "{{.RestartCount}}")))

    def can_reach(self, service: str, address: str) -> bool:
        """Whether a TCP connection from a container to HOST:PORT comes about."""
        host, _, port = address.rpartition(":")
        code = f"import socket\ntry: socket.create_connection(({host!r}, {port}), 2)\nexcept OSError: print('no')"
        return not self.compose("exec", "-T", service, "python", "-c", code)

    def kill(self, service: str, index: int = 1) -> None:
        """kill -9 the service's process in one of its containers."""
        self.compose("exec", "-T", "--index", str(index), service, "python", "-c", KILL, check=False)

    def client(self) -> Client:
        return Client(self.endpoint, connect_timeout=30)

    def pie(self, *arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """The `pie` command of this environment, pointed at the stack."""
        environment = self.environment | {"PIE_ENDPOINT": self.endpoint}
        program = Path(sys.executable).parent / "pie"
        return subprocess.run([program, *arguments], env=environment, capture_output=True, text=True, timeout=timeout)


def eventually(what: str, check: Callable[[], bool], timeout: float = 90.0) -> None:
    """Wait until `check()` is true. Raises AssertionError."""
    deadline = time.monotonic() + timeout
    while not check():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:g} s: {what}")
        time.sleep(0.5)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def missing() -> str:
    """Why there is no container engine here; empty if there is."""
    if shutil.which("docker") is None:
        return "docker is not on PATH"
    for command in (["docker", "compose", "version"], ["docker", "info"]):
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        if done.returncode != 0:
            return f"`{' '.join(command)}` fails: {done.stderr.strip().splitlines()[-1:]}"
    return ""
