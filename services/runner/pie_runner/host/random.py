"""Randomness, from the process's recorded key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pie_wire.errors import TooLarge

from pie_runner.process import process_of
from pie_runner.wasm.hostcall import HostFunction

if TYPE_CHECKING:
    from pie_runner.wasm.fiber import Fiber

MAX_BYTES = 65_536


def get_bytes(fiber: Fiber, count: int) -> bytes:
    """Unpredictable bytes. More than MAX_BYTES trap, as the WIT says."""
    if count > MAX_BYTES:
        raise TooLarge(f"random.get-bytes of {count} bytes; at most {MAX_BYTES} a call")
    return process_of(fiber).draws.take(count)


FUNCTIONS: Mapping[str, HostFunction] = {"get-bytes": get_bytes}
