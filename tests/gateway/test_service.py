"""The gateway as a process: `python -m pie_gateway`."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pie-") as name:
        yield Path(name)


def start(folder: Path, *flags: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pie_gateway", *flags]
    settings = {
        "PIE_GATEWAY_ENDPOINT": f"ipc://{folder}/run/c",
        "PIE_GATEWAY_RUNNERS_ENDPOINT": f"ipc://{folder}/run/r",
        "PIE_GATEWAY_KVSTORE_ENDPOINT": f"ipc://{folder}/run/k",
        "PIE_GATEWAY_DATA": str(folder / "data"),
        "PIE_GATEWAY_HTTP_PORT": "0",
    }
    return subprocess.Popen(command, env={**os.environ, **settings}, stderr=subprocess.PIPE, text=True)


def line_with(process: subprocess.Popen[str], event: str) -> dict[str, Any]:
    """The first log line about this event; the process must say it before it ends."""
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("{") and (fields := json.loads(line))["event"] == event:
            return fields
    raise AssertionError(f"the gateway ended without saying {event!r}")


def test_it_comes_up_alone_and_leaves_on_sigterm(folder: Path):
    process = start(folder)
    try:
        address = line_with(process, "ready")["http"]
        health = httpx.get(f"{address}/healthz")
        assert health.status_code == 503
        assert "kvstore does not answer" in health.json()["reasons"]
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_two_gateways_cannot_share_a_folder(folder: Path):
    first = start(folder)
    try:
        line_with(first, "ready")
        second = start(folder, "--endpoint", f"ipc://{folder}/run/c2", "--runners-endpoint", f"ipc://{folder}/run/r2")
        assert "another gateway" in line_with(second, "stopped")["reason"]
        assert second.wait(10) == 1
    finally:
        first.terminate()
        first.wait(10)


def test_a_taken_http_port_is_said_with_the_way_out(folder: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = start(folder, "--http-port", str(taken.getsockname()[1]))
        assert "--http-port" in line_with(process, "stopped")["reason"]
        assert process.wait(10) == 1


def test_a_bad_setting_is_named(folder: Path):
    config = folder / "pie.toml"
    config.write_text("[gateway]\nqueues = 3\n")
    process = start(folder, "--config", str(config))
    _, said = process.communicate(timeout=10)

    assert process.returncode == 1
    assert "queues" in said
