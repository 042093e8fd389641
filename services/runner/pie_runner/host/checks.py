"""Checks of what programs pass. Each raises a typed error that names the value and what is allowed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from pie_wire.errors import BadRequest, TooLarge
from pie_wire.messages.engine import SamplerSpec

MAX_TEXT = 4 << 20
MAX_STOP_IDS = 256
MAX_NAME = 200


class SamplerRecord(Protocol):
    """The WIT's `sampler`."""

    @property
    def temperature(self) -> float: ...
    @property
    def top_p(self) -> float: ...
    @property
    def top_k(self) -> int: ...


def sampler(record: SamplerRecord) -> SamplerSpec:
    """A sampler with numbers in range."""
    if not (math.isfinite(record.temperature) and record.temperature >= 0):
        raise BadRequest(f"temperature is {record.temperature}: it must be 0 (greedy) or positive")
    if not 0 < record.top_p <= 1:
        raise BadRequest(f"top_p is {record.top_p}: it must be above 0 and at most 1 (1 keeps all tokens)")
    if record.top_k < 0:
        raise BadRequest(f"top_k is {record.top_k}: it must be 0 (keeps all tokens) or positive")
    return SamplerSpec(record.temperature, record.top_p, record.top_k)


def text(value: str, what: str, limit: int = MAX_TEXT) -> str:
    """A text within its limit."""
    if len(value) > limit:
        raise TooLarge(f"{what} has {len(value)} characters; at most {limit} are allowed")
    return value


def name(value: str) -> str:
    """A snapshot name."""
    if not value or len(value) > MAX_NAME or not value.isprintable():
        raise BadRequest(f"a snapshot name has 1 to {MAX_NAME} printable characters, not {value[:40]!r}")
    return value


def plain(ids: Sequence[int]) -> list[int]:
    """Token ids as a list of ints (the sandbox may hand over an array of numbers)."""
    return [int(i) for i in ids]
