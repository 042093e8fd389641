"""The real process: sockets, signals, configuration. Gateway and kvstore are the stand-ins, over ZeroMQ."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pie_bakery import prepare_python_runtime
from pie_runner.service import find_python_runtime
from pie_wire.config import pie_home
from pie_wire.hub import Hub, Scope
from pie_wire.messages.common import Event
from pie_wire.messages.link import Identity
from pie_wire.messages.runner import Start
from pie_wire.transport import Transport
from runner_world import Gateway, Kvstore, World

FOREVER = "import asyncio\nasync def main():\n    print('here')\n    await asyncio.sleep(1e6)\n"
SAYS = "hello"


class Sockets:
    """The part of a World that Gateway and Kvstore use, on real sockets."""

    store = World.store

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.wires = SimpleNamespace(hub=self._hub, now=0.0)
        self.epochs = 0
        self.chunk = 1 << 20
        self.artifacts: dict[str, bytes] = {}
        self.logs: dict[str, list[Event]] = {}
        self.transports: list[Transport] = []
        self.members = list[Any]
        world: Any = self
        self.kvstore = Kvstore(world)
        self.gateway = Gateway(world)
        for transport, port, name in zip(self.transports, ("kvstore", "runners"), ("kv", "gw"), strict=True):
            transport.bind(port, f"ipc://{folder}/{name}")

    def _hub(self, kind: str, name: str) -> Hub:
        hub = Hub(Identity(kind, name, 0, f"{kind}-1"), time.monotonic, rng=random.Random(name))
        self.transports.append(Transport(hub))
        return hub

    def run(self, until: Callable[[], bool], limit: float = 60.0) -> None:
        end = time.monotonic() + limit
        while not until():
            if time.monotonic() > end:
                pytest.fail(f"not within {limit} s")
            for transport in self.transports:
                transport.poll(0.005)

    def close(self) -> None:
        for transport in self.transports:
            transport.close()


@pytest.fixture
def sockets(tmp_path: Path):
    made = Sockets(tmp_path)
    yield made
    made.close()


@pytest.fixture
def runner(sockets: Sockets, tmp_path: Path):
    prepare_python_runtime(pie_home())
    home = tmp_path / "home"
    home.mkdir()
    (home / "code").symlink_to(pie_home() / "code")
    command = [sys.executable, "-m", "pie_runner", "--kvstore-endpoint", f"ipc://{tmp_path}/kv"]
    (home / "tenants.toml").write_text(f"[acme.process]\noutput_bytes = {len(SAYS)}\n")
    runtime = find_python_runtime("", pie_home())
    process = subprocess.Popen(
        [*command, "--gateway-endpoint", f"ipc://{tmp_path}/gw", "--python-runtime", str(runtime), "--name", "r7"],
        env=os.environ | {"PIE_HOME": str(home), "PIE_RUNNER_TENANTS": str(home / "tenants.toml")},
        stderr=subprocess.PIPE,
        text=True,
    )
    yield process
    process.kill()
    process.wait()


def start(sockets: Sockets, pid: str, source: str, tenant: str = "local") -> None:
    ref = sockets.store("mine", source.encode())
    runner = sockets.gateway.runner
    assert runner is not None
    sockets.gateway.hub.request(runner, Start(pid, ref, "{}"), lambda _: None, timeout=10.0, scope=Scope(tenant))


def ended(sockets: Sockets, pid: str) -> bool:
    return any(event.kind in ("return", "error") for event in sockets.logs.get(pid, []))


def test_a_program_runs_in_the_real_process_which_stops_cleanly_when_asked(sockets, runner):
    sockets.run(lambda: bool(sockets.gateway.announced))
    start(sockets, "p1", "def main():\n    return 6 * 7\n")
    start(sockets, "p2", FOREVER)
    sockets.run(lambda: len(sockets.logs.get("p1", [])) == 2 and len(sockets.logs.get("p2", [])) == 2)
    assert sockets.logs["p1"][-1].text == "42"
    assert sockets.gateway.runner.name == "r7"

    runner.send_signal(signal.SIGTERM)
    sockets.run(lambda: runner.poll() is not None, limit=10.0)

    assert runner.returncode == 0
    assert sockets.logs["p2"][-1].error.code == "terminated"


def test_a_tenants_own_limit_holds_in_the_real_process(sockets, runner):
    sockets.run(lambda: bool(sockets.gateway.announced))
    source = f"from inferlet import session\nasync def main():\n    for _ in range(2): session.send({SAYS!r})\n"
    for tenant in ("acme", "other"):
        start(sockets, tenant, source, tenant)
    sockets.run(lambda: all(ended(sockets, pid) for pid in ("acme", "other")))

    error = sockets.logs["acme"][-1].error
    assert f"output_bytes = {len(SAYS)}" in error.message
    assert "[acme.process]" in error.message
    assert sockets.logs["other"][-1].kind == "return"


def test_a_bad_table_of_tenants_is_named(tmp_path):
    (tmp_path / "tenants.toml").write_text("[acme.process]\nmemory = -1\n")

    done = subprocess.run(
        [sys.executable, "-m", "pie_runner", "--tenants", str(tmp_path / "tenants.toml")],
        env=os.environ | {"PIE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode != 0
    assert f"{tmp_path}/tenants.toml: [acme.process] memory is -1" in done.stderr


def test_a_bad_setting_is_named():
    done = subprocess.run(
        [sys.executable, "-m", "pie_runner"],
        env=os.environ | {"PIE_RUNNER_CAPACITY": "many"},
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode != 0
    assert "PIE_RUNNER_CAPACITY" in done.stderr
