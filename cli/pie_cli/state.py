"""The state of a running stack, as its supervisor writes it and every command reads it."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import msgspec
from pie_wire.errors import Conflict

from pie_cli.paths import StackPaths

ServiceState = Literal["starting", "ready", "waiting", "failed", "stopped"]
"""`waiting`: it died and starts again in a moment. `failed`: it dies again and again, or never came up."""


class ServiceStatus(msgspec.Struct, frozen=True):
    """One service of the stack."""

    name: str
    kind: str
    state: ServiceState
    pid: int = 0
    restarts: int = 0
    error: str = ""


class StackState(msgspec.Struct, frozen=True):
    """`run/pie.json`. `phase` is `failed` when the start was given up, for the reason in `error`."""

    supervisor: int
    phase: Literal["starting", "ready", "stopping", "failed", "stopped"]
    started_at: float
    model: str
    endpoint: str
    kvstore: str
    http: str = ""
    error: str = ""
    programs: list[str] = []
    """Built-in programs installed by this start."""
    services: list[ServiceStatus] = []


def read_state(paths: StackPaths) -> StackState | None:
    """What the last supervisor wrote, whether it lives or not."""
    try:
        return msgspec.json.decode(paths.state.read_bytes(), type=StackState)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def write_state(paths: StackPaths, state: StackState) -> None:
    """Replace the state file; readers see the old or the new one, whole."""
    scratch = paths.state.with_name(f"pie.json.{os.getpid()}")
    scratch.write_bytes(msgspec.json.format(msgspec.json.encode(state)))
    scratch.replace(paths.state)


def is_up(paths: StackPaths) -> bool:
    """Whether a supervisor is at work in this home."""
    try:
        with paths.lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def running(paths: StackPaths) -> StackState | None:
    """The state of the stack that is up in this home, if one is."""
    return read_state(paths) if is_up(paths) else None


@contextmanager
def own_stack(paths: StackPaths, patience: float = 2.0) -> Generator[Path]:
    """Be the supervisor of this home. Raises Conflict if another one is."""
    with paths.lock.open("a") as file:
        deadline = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Conflict("another `pie up` is at work in this PIE_HOME") from None
                time.sleep(0.05)
            else:
                break
        yield paths.lock
