"""A stack of the benchmark's own, in a home that borrows models and what is compiled from the user's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pie_wire.config import pie_home
from pie_wire.errors import InternalError

_NOT_HANDED_ON = ("REDIS_URL", "PIE_CONFIG", "PIE_ENDPOINT", "PIE_MODEL")
_BORROWED = ("models", "runtime", "code", "native")
_STOP_SECONDS = 30.0


@contextmanager
def stack(model: str, settings: Mapping[str, str]) -> Generator[str]:
    """`pie up` with these environment variables; yields the endpoint for clients, before the model is there.

    Raises:
        InternalError: it ended while it started.
    """
    with tempfile.TemporaryDirectory(prefix="pie-bench-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        for name in _BORROWED:
            (pie_home() / name).mkdir(parents=True, exist_ok=True)
            (home / name).symlink_to(pie_home() / name)
        environment = {key: value for key, value in os.environ.items() if key not in _NOT_HANDED_ON}
        environment |= {"PIE_HOME": folder, **settings}
        command = [sys.executable, "-m", "pie_cli", "up", "--model", model, "--http-port", "0"]
        log = home / "up.log"
        with log.open("ab") as output:
            process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
        try:
            gateway = home / "run" / "gateway.sock"
            while not gateway.exists():
                if process.poll() is not None:
                    raise InternalError(f"the stack of the benchmark did not start: {log.read_text()[-2000:]}")
                time.sleep(0.05)
            yield f"ipc://{gateway}"
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
