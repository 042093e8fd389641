"""What every Pie process does with the operating system: identity, dying with its parent, stopping on signals."""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from pie_wire.messages.link import Identity

_PR_SET_PDEATHSIG = 1


def host_id() -> str:
    """Names the process table that this process's pid belongs to: boot and pid namespace. Empty when unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""
    return f"{boot}:{namespace}"


def identity(kind: str, name: str) -> Identity:
    """This process as a peer; the epoch comes from kvstore later."""
    return Identity(kind, name, 0, secrets.token_hex(8), os.getpid(), host_id())


def die_with_parent() -> None:
    """End this process (SIGTERM) when its parent thread ends, so that nothing is orphaned. Linux only; elsewhere the
    supervisor's own shutdown is all there is."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() == 1 and os.environ.get("PIE_PARENT", "") not in ("", "1"):
            os.kill(os.getpid(), signal.SIGTERM)  # the parent died before prctl


class Shutdown:
    """Staged stop: the first SIGTERM or SIGINT asks (`requested`), the second forces the exit."""

    def __init__(self, notify: Callable[[], None] | None = None) -> None:
        self.requested = threading.Event()
        self._notify = notify
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._handle)
            signal.signal(signal.SIGINT, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested.is_set():
            os._exit(128 + number)
        self.requested.set()
        if self._notify is not None:
            self._notify()


def watch(pid: int) -> int | None:
    """A file descriptor that becomes readable when the process ends; None if it cannot be watched. Close it."""
    opener = getattr(os, "pidfd_open", None)
    if opener is None or pid <= 0:
        return None
    with contextlib.suppress(OSError):
        return opener(pid)
    return None


def is_alive(pid: int) -> bool:
    """Whether a process with this pid exists here."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
