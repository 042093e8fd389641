"""A device without a model, for tests of everything around it: the next token is a hash of the tokens a row sees."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pie_wire.errors import BadRequest

from pie_engine.memory.host_store import HostStore
from pie_engine.passes.batch import Batch
from pie_engine.passes.device import (
    Entropy,
    LoadedAdapter,
    LogProbs,
    Result,
    TopK,
    Vector,
    load_pages,
    nothing_left,
    read_probed,
)
from pie_engine.passes.distribution import exact_distribution
from pie_engine.passes.draws import uniforms
from pie_engine.passes.outputs import (
    EntropyProbe,
    HiddenProbe,
    History,
    LogitsProbe,
    LogProbsProbe,
    PagesProbe,
    Probe,
    Sampler,
    TopKProbe,
)
from pie_engine.passes.trees import moves
from pie_engine.simulation.simulated_adapters import SimulatedAdapters
from pie_engine.simulation.slot_memory import SlotMemory


class SimulatedDevice:
    """Deterministic, quick, and wrong whenever pages are. For `habit` see `recall`."""

    def __init__(self, pages: int, page_size: int, vocab: int, *, habit: int = 1) -> None:
        self._memory = SlotMemory(pages, page_size)
        self._host = HostStore(self._memory, clock=lambda: 0.0)
        self._vocab = vocab
        self._habit = habit
        self.adapters = SimulatedAdapters()
        self.passes = 0
        self.rows = 0

    def execute(self, batch: Batch) -> list[Result]:
        self.passes += 1
        self.rows += batch.rows
        if batch.moves is not None:
            self._host.carry_out(batch.moves)
        load_pages(self._memory, batch)
        self._memory.store(batch, self.adapters.values(batch))
        results: list[Result] = []
        for output in batch.outputs:
            if isinstance(output.spec, PagesProbe):
                results.append(read_probed(self._memory, output.spec, batch.page_size))
                continue
            whole = self._memory.seen_by(batch, output.row)
            seen = recall(whole, self._habit)
            places = self._memory.positions_seen_by(batch, output.row) if len(seen) == len(whole) else None
            if own := self.adapters.mark_at(batch, output.row):
                seen.append(own)
                places = None
            spec = output.spec
            if isinstance(spec, Sampler):
                try:
                    results.append(next_token(seen, spec, output.position, self._vocab, places, output.history))
                except BadRequest as exc:
                    results.append(exc)
            else:
                results.append(probe(seen, spec, self._vocab, places))
        moved = moves(batch, results)
        if len(moved):
            self._memory.move(moved)
        return results

    @property
    def page_bytes(self) -> int:
        """Bytes of a page's content."""
        return self._memory.read_pages((0,)).nbytes

    def read_adapter(self, folder: str, most: int) -> LoadedAdapter:
        return self.adapters.read(folder, most)

    def keep_adapter(self, slot: int, adapter: LoadedAdapter) -> None:
        self.adapters.keep(slot, adapter)

    def drop_adapter(self, slot: int) -> None:
        self.adapters.drop(slot)


def recall(tokens: list[int], habit: int) -> list[int]:
    """What of these tokens decides what follows: all of them once in `habit` times, else the last, so that the
    device repeats itself as text does."""
    return tokens if _hash(tokens) % habit == 0 else tokens[-1:]


def next_token(
    tokens: Sequence[int],
    sampler: Sampler,
    position: int,
    vocab: int,
    places: Sequence[int] | None = None,
    history: History | None = None,
) -> int:
    """What `SimulatedDevice` draws for a row that sees these tokens, at positions 0, 1, ... or at `places`.

    Raises BadRequest when nothing may be drawn.
    """
    draw = float(uniforms([sampler.seed], [position])[0])
    if not (sampler.edits or sampler.min_p or sampler.typical_p < 1.0):
        return (_hash(tokens, places) + (int(draw * 2**32) if sampler.temperature else 0)) % vocab
    chances = exact_distribution(next_logits(tokens, vocab, places), sampler, history)
    if not chances.any():
        raise nothing_left()
    cumulative = chances.cumsum()
    return int(np.searchsorted(cumulative, draw * float(cumulative[-1]), side="right"))


def probe(tokens: Sequence[int], spec: Probe, vocab: int, places: Sequence[int] | None = None) -> Result:
    """What `SimulatedDevice` answers to a probe after these tokens."""
    logits = next_logits(tokens, vocab, places)
    logprobs: NDArray[np.float64] = logits - np.log(np.exp(logits.astype(np.float64)).sum())
    match spec:
        case TopKProbe(k=k):
            order = np.argsort(-logits, kind="stable")[:k]
            return TopK(tuple(order.tolist()), tuple(1.0 / (1 + i) for i in range(len(order))))
        case LogitsProbe():
            return Vector("logits", logits)
        case LogProbsProbe(ids=ids):
            return LogProbs(tuple(logprobs[list(ids)].tolist()))
        case EntropyProbe():
            return Entropy(-float(np.dot(np.exp(logprobs), logprobs)))
        case HiddenProbe():
            return Vector("hidden", np.asarray([len(tokens), _hash(tokens, places) % 4096], dtype=np.float32))


def next_logits(tokens: Sequence[int], vocab: int, places: Sequence[int] | None = None) -> NDArray[np.float32]:
    """Logits whose argmax is the greedy `next_token`."""
    return -((np.arange(vocab) - _hash(tokens, places)) % vocab).astype(np.float32)


def _hash(tokens: Sequence[int], places: Sequence[int] | None = None) -> int:
    digest = hashlib.blake2b(np.asarray(tokens, dtype="<i4").tobytes(), digest_size=6)
    if places is not None and list(places) != list(range(len(tokens))):
        digest.update(np.asarray(places, dtype="<i4").tobytes())
    return int.from_bytes(digest.digest(), "little")
