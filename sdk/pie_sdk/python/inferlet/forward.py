"""Explicit passes of the model, for programs that decide each token themselves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wit_world.imports import forward as raw

from inferlet import loop
from inferlet.errors import host_errors, unwrap
from inferlet.logits import LogitsRow
from inferlet.probes import Distribution, Hidden, Logits, Probe, Resident, answer
from inferlet.sample import Sampler

if TYPE_CHECKING:
    from inferlet.context import Context

_CAUSAL = raw.AttentionMask_Causal()


@dataclass(frozen=True)
class SampleHandle:
    """Names the draws of one `sample` call in the output."""

    slot: int
    arity: int = 1


@dataclass(frozen=True)
class ProbeHandle:
    """Names one probe in the output."""

    slot: int
    kind: Probe


class Forward:
    """One pass, built up and then executed once. Input tokens join the context; drawn tokens do not."""

    def __init__(self, ctx: Context) -> None:
        self._context = ctx
        self._tokens: list[int] = []
        self._positions: list[int] = []
        self._mask: raw.AttentionMask = _CAUSAL
        self._draws: list[raw.Draw] = []
        self._probes: list[raw.Probe] = []
        self._kinds: list[Probe] = []

    def start_position(self) -> int:
        """Where the first input token will be."""
        return self._context.seq_len

    def input(self, tokens: Iterable[int], positions: Iterable[int] = ()) -> Forward:
        """Add input tokens; each is one row. Without any, the context's last token is row 0. `positions` for all of
        them, or for none: they then count on."""
        self._tokens += tokens
        self._positions += positions
        return self

    def attend_window(self, window: int, sink: int = 0) -> Forward:
        """Rows see the last `window` tokens, their own included, and the first `sink`."""
        self._mask = raw.AttentionMask_Window(raw.WindowMask(window, sink))
        return self

    def attend_runs(self, rows: Iterable[Sequence[int]]) -> Forward:
        """Per row, lengths of alternating stretches of tokens, the first one hidden."""
        self._mask = raw.AttentionMask_Runs([list(row) for row in rows])
        return self

    def attend_tree(self, parents: Iterable[int]) -> Forward:
        """Per row, the earlier row that it follows, or -1. Rows see what was before the pass, their ancestors and
        themselves."""
        self._mask = raw.AttentionMask_Tree(list(parents))
        return self

    def sample(
        self,
        indices: Iterable[int],
        sampler: Sampler,
        seed: int | None = None,
        *,
        start: int | None = None,
        stop_ids: Iterable[int] = (),
    ) -> SampleHandle:
        """Draw a token at each of these rows. `start`: length of the context where generation began, for penalties and
        `min_tokens`, which keeps `stop_ids` away."""
        rows = list(indices)
        self._draws.append(raw.Draw(rows, sampler.wit, seed, start, list(stop_ids)))
        return SampleHandle(len(self._draws) - 1, len(rows))

    def probe(self, index: int, probe: Probe) -> ProbeHandle:
        """Look at one row."""
        self._probes.append(raw.Probe(index, probe.wit))
        return ProbeHandle(len(self._probes) - 1, probe)

    async def execute(self) -> Output:
        """Run the pass, batched with everyone else's."""
        request = raw.Pass(self._tokens, self._positions, self._mask, self._draws, self._probes)
        if loop.is_alone():
            with host_errors():
                output = raw.compute(self._context.handle, request)
            self._context._wrote(self._tokens)
            return Output(output)
        with host_errors():
            pending = raw.execute(self._context.handle, request)
        self._context._wrote(self._tokens)
        with pending:
            return Output(unwrap(await loop.result(pending)))


class Output:
    """What a pass yielded. Asking for something of another kind gives None."""

    def __init__(self, output: raw.Output) -> None:
        self.raw = output

    @property
    def cached_tokens(self) -> int:
        """Tokens whose KV was found instead of computed."""
        return self.raw.cached_tokens

    def token(self, h: SampleHandle) -> int | None:
        """The first drawn token of a `sample`."""
        drawn = self.raw.tokens[h.slot]
        return drawn[0] if drawn else None

    def tokens_at(self, h: SampleHandle) -> list[int]:
        """All drawn tokens of a `sample`, one for each of its rows."""
        return self.raw.tokens[h.slot]

    def value(self, h: ProbeHandle) -> Any:
        """The answer of a probe, in the form that its class names."""
        return answer(self.raw.probes[h.slot])

    def distribution(self, h: ProbeHandle) -> tuple[list[int], list[float]] | None:
        """Ids and probabilities, most probable first."""
        return self.value(h) if isinstance(h.kind, Distribution) else None

    def logits(self, h: ProbeHandle) -> bytes | None:
        """vocab_size little-endian float32."""
        return self.value(h) if isinstance(h.kind, Logits) else None

    def row(self, h: ProbeHandle) -> LogitsRow | None:
        """The row that stayed in the host."""
        return self.value(h) if isinstance(h.kind, Resident) else None

    def hidden(self, h: ProbeHandle) -> bytes | None:
        """The last hidden state, little-endian float32."""
        return self.value(h) if isinstance(h.kind, Hidden) else None


async def verify(
    ctx: Context, tokens: Sequence[int], parents: Sequence[int] | None, sampler: Sampler, seed: int | None
) -> list[int]:
    """See `Context.verify`."""
    after = list(range(-1, len(tokens) - 1)) if parents is None else list(parents)
    with host_errors():
        pending = raw.verify(ctx.handle, raw.Guesses(list(tokens), after, sampler.wit, seed))
    with pending:
        drawn = unwrap(await loop.result(pending)).tokens[0]
    ctx._wrote(drawn[:-1])
    return drawn
