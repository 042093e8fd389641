"""Probes as programs state them, checked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol, cast

from pie_wire.errors import BadRequest, TooLarge
from pie_wire.messages.engine import Output

from pie_runner.host import checks
from pie_runner.probes import ENGINE_TOP, Probe, Softmax
from pie_runner.wasm.hostcall import Case

MAX_ENTRIES = 1 << 16


class DistributionSpec(Protocol):
    """The WIT's `distribution-spec`."""

    @property
    def temperature(self) -> float: ...
    @property
    def k(self) -> int: ...


def probe(kind: Case, vocab: int, row: int = 0) -> Probe:
    """What a `probe-kind` asks about a row.

    Raises:
        BadRequest: a number out of range. TooLarge: too many ids.
    """
    match kind.tag:
        case "logits":
            return Probe("logits", Output(row, "logits"))
        case "resident":
            return Probe("resident", Output(row, "logits"))
        case "distribution":
            return _distribution(cast("DistributionSpec", kind.value), vocab, row)
        case "logprobs":
            ids = checks.ids(cast("Sequence[int]", kind.value), "logprobs", vocab)
            if not ids:
                raise BadRequest("logprobs: name at least one token id")
            return Probe("logprobs", Output(row, "logprobs", ids=ids))
        case "entropy":
            return Probe("entropy", Output(row, "entropy"))
        case "hidden":
            return Probe("hidden", Output(row, "hidden"))
        case tag:
            raise BadRequest(f"{tag!r} is no kind of probe")


def check_entries(probes: Sequence[Probe], vocab: int) -> None:
    """Raise TooLarge when distributions together have more tokens than are handed over at once: one over the whole
    vocabulary, or several smaller ones."""
    entries = sum(asked.softmax.top for asked in probes if asked.softmax is not None)
    if entries > max(vocab, MAX_ENTRIES):
        raise TooLarge(
            f"distributions of {entries} tokens together are asked for at once, and {max(vocab, MAX_ENTRIES)} are "
            "returned: give them a smaller k, or ask for `logits` or `resident` rows"
        )


def _distribution(spec: DistributionSpec, vocab: int, row: int) -> Probe:
    if not (math.isfinite(spec.temperature) and spec.temperature > 0):
        raise BadRequest(f"a distribution's temperature is {spec.temperature}: it must be positive")
    top = vocab if spec.k == 0 else min(spec.k, vocab)
    if spec.temperature == 1 and top <= ENGINE_TOP:
        return Probe("distribution", Output(row, "top", top=top))
    return Probe("distribution", Output(row, "logits"), Softmax(spec.temperature, top))
