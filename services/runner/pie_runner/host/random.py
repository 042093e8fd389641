"""Randomness, from the process's recorded key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pie_runner.process import process_of
from pie_runner.wasm.hostcall import HostFunction

if TYPE_CHECKING:
    from pie_runner.wasm.fiber import Fiber

MAX_BYTES = 65_536


class TooManyBytesError(Exception):
    """More than MAX_BYTES at once: traps, as the WIT says."""


def get_bytes(fiber: Fiber, count: int) -> bytes:
    """Unpredictable bytes."""
    if count > MAX_BYTES:
        raise TooManyBytesError(f"random.get-bytes of {count} bytes; at most {MAX_BYTES} a call")
    return process_of(fiber).draws.take(count)


FUNCTIONS: Mapping[str, HostFunction] = {"get-bytes": get_bytes}
