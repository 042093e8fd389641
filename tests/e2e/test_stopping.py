"""An engine that is told to stop before it serves stops at once, wherever the signal meets it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

AT_ONCE = 1.5
"""Seconds, of which nearly all are the machine's: a library that is being loaded is loaded to its end."""


@pytest.mark.parametrize("after", [1.0, 0.0], ids=["while importing", "while loading"])
def test_sigterm(smollm2: Path, tmp_path: Path, after: float):
    log = tmp_path / "log"
    with log.open("wb") as output:
        engine = subprocess.Popen(
            [sys.executable, "-m", "pie_engine", "--model", str(smollm2)],
            env={**os.environ, "PIE_HOME": str(tmp_path)},
            stderr=output,
        )
    try:
        time.sleep(after)
        while not after and b"loading the model" not in log.read_bytes():
            assert engine.poll() is None, log.read_text()
            time.sleep(0.02)
        engine.send_signal(signal.SIGTERM)
        assert engine.wait(AT_ONCE) == 0
    finally:
        engine.kill()
        engine.wait()
    assert "ready" not in log.read_text()
