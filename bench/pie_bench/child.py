"""Measurements of a service in a process of its own: `python -m SERVICE.bench ARGUMENTS` prints one JSON object."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from pie_wire.errors import DeadlineExceeded, InternalError


def run_child(module: str, *arguments: str, timeout: float) -> Any:
    """What the module prints; its messages go to our standard error.

    Raises:
        DeadlineExceeded: it took longer than `timeout` seconds. InternalError: it failed.
    """
    command = [sys.executable, "-m", module, *arguments]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, timeout=timeout, check=False)
    except subprocess.TimeoutExpired as exc:
        raise DeadlineExceeded(f"{' '.join(arguments[:2])} took more than {timeout:.0f} s") from exc
    if done.returncode != 0:
        raise InternalError(f"{' '.join(arguments[:2])} failed; its last words are above")
    return json.loads(done.stdout)
