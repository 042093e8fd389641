"""Samplers as programs state them, checked and in the engine's form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from pie_wire.errors import BadRequest, TooLarge
from pie_wire.messages.engine import SamplerSpec

from pie_runner.host import checks
from pie_runner.logits import MOST
from pie_runner.wasm.hostcall import Case

MAX_PASS_BYTES = 4 << 20
"""Of the samplers of one pass, a mask counted for each row that it is for."""


class SamplerRecord(Protocol):
    """The WIT's `sampler`."""

    @property
    def temperature(self) -> float: ...
    @property
    def top_p(self) -> float: ...
    @property
    def top_k(self) -> int: ...
    @property
    def min_p(self) -> float: ...
    @property
    def typical_p(self) -> float: ...
    @property
    def repetition_penalty(self) -> float: ...
    @property
    def presence_penalty(self) -> float: ...
    @property
    def frequency_penalty(self) -> float: ...
    @property
    def bias(self) -> Sequence[tuple[int, float]]: ...
    @property
    def mask(self) -> Case | None: ...
    @property
    def min_tokens(self) -> int: ...


def sampler(record: SamplerRecord, vocab: int) -> SamplerSpec:
    """A sampler with numbers in range.

    Raises:
        BadRequest: one is not. TooLarge: too many biases.
    """
    if not (math.isfinite(record.temperature) and record.temperature >= 0):
        raise BadRequest(f"temperature is {record.temperature}: it must be 0 (greedy) or positive")
    for name, share in (("top_p", record.top_p), ("typical_p", record.typical_p)):
        if not 0 < share <= 1:
            raise BadRequest(f"{name} is {share}: it must be above 0 and at most 1 (1 keeps all tokens)")
    if not 0 <= record.min_p <= 1:
        raise BadRequest(f"min_p is {record.min_p}: it must be between 0 (keeps all tokens) and 1")
    if record.top_k < 0:
        raise BadRequest(f"top_k is {record.top_k}: it must be 0 (keeps all tokens) or positive")
    if not 1 / MOST <= record.repetition_penalty <= MOST:
        raise BadRequest(f"repetition_penalty is {record.repetition_penalty}: it must be positive (1 is none)")
    for name, penalty in (("presence", record.presence_penalty), ("frequency", record.frequency_penalty)):
        if not abs(penalty) <= MOST:
            raise BadRequest(f"{name}_penalty is {penalty}: it must be a number (0 is none)")
    bias = record.bias
    return SamplerSpec(
        record.temperature,
        record.top_p,
        record.top_k,
        record.min_p,
        record.typical_p,
        record.repetition_penalty,
        record.presence_penalty,
        record.frequency_penalty,
        _bias_ids(bias, vocab) if bias else [],
        [value for _, value in bias],
        None if record.mask is None else _mask(record.mask, vocab),
        record.min_tokens,
    )


def check_size(samplers: Sequence[tuple[SamplerSpec, int]]) -> None:
    """Raise TooLarge when samplers, each for so many rows, are too much for one pass."""
    size = sum(rows * (8 * len(spec.bias) + _mask_bytes(spec)) for spec, rows in samplers)
    if size > MAX_PASS_BYTES:
        raise TooLarge(
            f"masks and biases of {size} bytes for the rows of one pass exceed {MAX_PASS_BYTES}: ask for fewer at once"
        )


def _bias_ids(bias: Sequence[tuple[int, float]], vocab: int) -> list[int]:
    if len(bias) > checks.MAX_IDS:
        raise TooLarge(f"bias: at most {checks.MAX_IDS} are allowed, not {len(bias)}: use a mask to forbid many")
    found = checks.ids([number for number, _ in bias], "bias", vocab)
    if len(set(found)) != len(found):
        raise BadRequest("bias: a token id is there twice")
    wrong = next((value for _, value in bias if not (abs(value) <= MOST or value == -math.inf)), None)
    if wrong is not None:
        raise BadRequest(f"bias: {wrong} is neither a number up to {MOST:g} either way nor minus infinity")
    return found


def _mask(mask: Case, vocab: int) -> bytes | list[int]:
    if mask.tag == "bits":
        bits = checks.binary(str(mask.value), "a token mask", checks.MAX_MASK)
        size = -(-vocab // 32) * 4
        if len(bits) != size:
            raise BadRequest(f"a token mask has {size} bytes for a vocabulary of {vocab}, not {len(bits)}")
        if not bits.strip(b"\0"):
            raise BadRequest("the token mask allows no token")
        return bits
    runs = checks.plain(mask.value)  # pyright: ignore[reportArgumentType] - the codec made it from the WIT's list
    if sum(runs) != vocab or len(runs) > vocab + 1:
        raise BadRequest(f"the run lengths of a token mask add up to the vocabulary of {vocab}, not {sum(runs)}")
    if not any(runs[1::2]):
        raise BadRequest("the token mask allows no token")
    return runs


def _mask_bytes(spec: SamplerSpec) -> int:
    if spec.mask is None:
        return 0
    return len(spec.mask) if isinstance(spec.mask, bytes) else 5 * len(spec.mask)
