"""Explicit passes of the model, for programs that decide each token themselves."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wit_world.imports import forward as raw

from inferlet import loop
from inferlet.errors import host_errors, unwrap
from inferlet.sample import Sampler

if TYPE_CHECKING:
    from inferlet.context import Context


@dataclass(frozen=True)
class SampleHandle:
    """Names the draws of one `sample` call in the output."""

    slot: int
    arity: int = 1


@dataclass(frozen=True)
class ProbeHandle:
    """Names one probe in the output."""

    slot: int
    kind: str


@dataclass(frozen=True)
class Logits:
    """Raw logits of the whole vocabulary, little-endian float32."""


@dataclass(frozen=True)
class Distribution:
    """The `k` most probable tokens (0: all) after a softmax at this temperature."""

    temperature: float = 1.0
    k: int = 0


class Forward:
    """One pass, built up and then executed once. Input tokens join the context; drawn tokens do not."""

    def __init__(self, ctx: Context) -> None:
        self._context = ctx
        self._tokens: list[int] = []
        self._draws: list[raw.Draw] = []
        self._probes: list[raw.Probe] = []

    def start_position(self) -> int:
        """Where the first input token will be."""
        return self._context.seq_len

    def input(self, tokens: Iterable[int]) -> Forward:
        """Add input tokens; each is one row. Without any, the context's last token is row 0."""
        self._tokens += tokens
        return self

    def sample(self, indices: Iterable[int], sampler: Sampler, seed: int | None = None) -> SampleHandle:
        """Draw a token at each of these rows."""
        rows = list(indices)
        self._draws.append(raw.Draw(rows, sampler.wit, seed))
        return SampleHandle(len(self._draws) - 1, len(rows))

    def probe(self, index: int, probe: Logits | Distribution) -> ProbeHandle:
        """Look at one row."""
        if isinstance(probe, Distribution):
            spec = raw.DistributionSpec(probe.temperature, probe.k)
            self._probes.append(raw.Probe(index, raw.ProbeKind_Distribution(spec)))
            return ProbeHandle(len(self._probes) - 1, "distribution")
        self._probes.append(raw.Probe(index, raw.ProbeKind_Logits()))
        return ProbeHandle(len(self._probes) - 1, "logits")

    async def execute(self) -> Output:
        """Run the pass, batched with everyone else's."""
        with host_errors():
            pending = raw.execute(self._context.handle, raw.Pass(self._tokens, self._draws, self._probes))
        self._context._wrote(self._tokens)
        with pending:
            return Output(unwrap(await loop.result(pending)))


class Output:
    """What a pass yielded. Asking for something of another kind gives None."""

    def __init__(self, output: raw.Output) -> None:
        self.raw = output

    def token(self, h: SampleHandle) -> int | None:
        """The first drawn token of a `sample`."""
        drawn = self.raw.tokens[h.slot]
        return drawn[0] if drawn else None

    def tokens_at(self, h: SampleHandle) -> list[int]:
        """All drawn tokens of a `sample`, one for each of its rows."""
        return self.raw.tokens[h.slot]

    def distribution(self, h: ProbeHandle) -> tuple[list[int], list[float]] | None:
        """Ids and probabilities, most probable first."""
        got = self.raw.probes[h.slot]
        if not isinstance(got, raw.ProbeOutput_Distribution):
            return None
        return got.value.ids, got.value.probabilities

    def logits(self, h: ProbeHandle) -> bytes | None:
        """vocab_size little-endian float32."""
        got = self.raw.probes[h.slot]
        return base64.b64decode(got.value) if isinstance(got, raw.ProbeOutput_Logits) else None
