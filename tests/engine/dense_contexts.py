"""What contexts hold, without pages: an oracle for random operations, and a device to compare with it.

The KV of a token is a number: a hash of the token, its position and the KV of all that its row sees. So it carries the
token's whole history, as real KV does; a token computed again under another mask, a page mixed up or a stale slot gives
another number, and so another answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray
from pie_engine.memory.host_store import HostStore
from pie_engine.passes.batch import Batch
from pie_engine.passes.device import Result, load_pages, read_probed
from pie_engine.passes.outputs import PagesProbe, Sampler
from pie_engine.simulation.simulated import SimulatedDevice
from pie_engine.simulation.slot_memory import SlotMemory


def kv_of(token: int, position: int, seen: Sequence[int], sees_itself: bool) -> int:
    """31 bits."""
    numbers = np.asarray([token, position, int(sees_itself), *seen], dtype="<i4")
    return int.from_bytes(hashlib.blake2b(numbers.tobytes(), digest_size=4).digest(), "little") >> 1


def answer(kv: int, vocab: int) -> int:
    """The token that follows a row."""
    return kv % vocab


class Dense:
    """One context: per token its position, the slots its row sees, and its KV."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.positions: list[int] = []
        self.seen: list[frozenset[int]] = []
        self.kv: list[int] = []
        self.hidden: set[int] = set()

    def __len__(self) -> int:
        return len(self.tokens)

    def push(self, token: int, position: int | None = None, seen: Collection[int] | None = None) -> None:
        """A token more, by default at the next position with a causal row."""
        slot = len(self)
        following = self.positions[-1] + 1 if slot else 0
        self.tokens.append(token)
        self.positions.append(following if position is None else position)
        self.seen.append(frozenset(range(slot + 1) if seen is None else seen) - self.hidden)
        self.kv.append(0)
        self._compute()

    def head(self, length: int) -> Dense:
        """A copy of the first tokens; `may_end` at their number."""
        made = Dense()
        made.tokens, made.positions = self.tokens[:length], self.positions[:length]
        made.seen, made.kv = self.seen[:length], self.kv[:length]
        made.hidden = {slot for slot in self.hidden if slot < length}
        made._hide()
        return made

    def may_end(self, length: int) -> bool:
        """The last of the first `length` tokens has not been dropped."""
        return length - 1 not in self.hidden

    def drop(self, start: int, stop: int) -> None:
        """From the last token on nobody sees these."""
        self.hidden |= set(range(start, stop))
        self._hide()

    def show(self, seen: Collection[int]) -> None:
        """Another mask for the last token."""
        self.seen[-1] = frozenset(seen) - self.hidden
        self._compute()

    def _hide(self) -> None:
        if self.tokens:
            self.seen[-1] -= self.hidden
            self._compute()

    def _compute(self) -> None:
        slot = len(self) - 1
        others = [self.kv[other] for other in sorted(self.seen[slot]) if other != slot]
        self.kv[slot] = kv_of(self.tokens[slot], self.positions[slot], others, slot in self.seen[slot])


class HistoryDevice(SimulatedDevice):
    """Computes KV as `Dense` does, from what page tables and intervals show."""

    def __init__(self, pages: int, page_size: int, vocab: int) -> None:
        super().__init__(pages, page_size, vocab)
        self._slots = SlotMemory(pages, page_size)
        self._hosts = HostStore(self._slots, clock=lambda: 0.0)
        self._size, self._words, self._scratch = page_size, vocab, pages

    def execute(self, batch: Batch) -> list[Result]:
        self.rows += batch.rows
        self.passes += 1
        if batch.moves is not None:
            self._hosts.carry_out(batch.moves)
        load_pages(self._slots, batch)
        for source, destination in batch.copies:
            self._slots.write_pages([destination], self._slots.read_pages([source]))
        kv = [self._row(batch, row, segment) for segment in range(batch.segments) for row in self._rows(batch, segment)]
        results: list[Result] = []
        for output in batch.outputs:
            if isinstance(output.spec, PagesProbe):
                results.append(read_probed(self._slots, output.spec, batch.page_size))
                continue
            assert isinstance(output.spec, Sampler)
            results.append(answer(kv[output.row], self._words))
        return results

    def _rows(self, batch: Batch, segment: int) -> range:
        return range(int(batch.segment_rows[segment]), int(batch.segment_rows[segment + 1]))

    def _row(self, batch: Batch, row: int, segment: int) -> int:
        table = batch.pages[batch.page_ptr[segment] : batch.page_ptr[segment + 1]]
        slot, seen, itself = int(batch.row_slots[row]), [], False
        ends = batch.interval_ptr[row : row + 2]
        held = {int(page): self._page(int(page)) for page in table}
        for start, stop in batch.intervals[ends[0] : ends[1]]:
            for other in range(int(start), int(stop)):
                if other == slot:
                    itself = True
                else:
                    seen.append(int(held[int(table[other // self._size])][other % self._size]))
        kv = kv_of(int(batch.tokens[row]), int(batch.positions[row]), seen, itself)
        page, offset = divmod(int(batch.write_slots[row]), self._size)
        if page < self._scratch:
            numbers = self._page(page)
            numbers[offset] = kv
            self._put(page, numbers)
        elif any(output.row == row and isinstance(output.spec, Sampler) for output in batch.outputs):
            stored = int(held[int(table[slot // self._size])][slot % self._size])
            assert stored == kv, "a row that only asks is not the one whose KV is kept"
        return kv

    def _page(self, page: int) -> NDArray[np.int32]:
        return self._slots.read_pages([page]).view(np.int32)[0, : self._size].copy()

    def _put(self, page: int, numbers: NDArray[np.int32]) -> None:
        whole = self._slots.read_pages([page]).view(np.int32).copy()
        whole[0, : self._size] = numbers
        self._slots.write_pages([page], whole.view(np.uint8))
