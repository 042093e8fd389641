"""Adapters of the simulated device: they change the value that a row leaves in its slot, and what the row answers."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from pie_wire.errors import NotFound, OutOfMemory

from pie_engine.passes.batch import AdaptedRows, Batch
from pie_engine.passes.device import AdapterFacts, LoadedAdapter
from pie_engine.passes.outputs import Int32Array


@dataclass(frozen=True)
class SimulatedAdapter:
    """An adapter that is what its folder's content says."""

    content: bytes

    @property
    def facts(self) -> AdapterFacts:
        return AdapterFacts(hashlib.blake2b(self.content, digest_size=16).digest(), len(self.content), 1, 1)


class SimulatedAdapters:
    """Those that can be read, by folder, and those that are kept, as digests by slot."""

    def __init__(self) -> None:
        self.folders: dict[str, bytes] = {}
        self.kept: dict[int, bytes] = {}

    def read(self, folder: str, most: int) -> SimulatedAdapter:
        content = self.folders.get(folder)
        if content is None:
            raise NotFound(f"there is no folder {folder}")
        if len(content) > most:
            raise OutOfMemory(f"{len(content)} bytes are more than the {most} left")
        return SimulatedAdapter(content)

    def keep(self, slot: int, adapter: LoadedAdapter) -> None:
        self.kept[slot] = adapter.facts.digest

    def drop(self, slot: int) -> None:
        del self.kept[slot]

    def values(self, batch: Batch) -> Int32Array:
        """What the rows leave in their slots."""
        values = batch.tokens.copy()
        for group in batch.adapted:
            mark = self._mark(group)
            values[group.rows] = [marked(token, mark) for token in values[group.rows].tolist()]
        return values

    def mark_at(self, batch: Batch, row: int) -> int:
        """The mark of the row's own set."""
        return next((self._mark(group) for group in batch.adapted if row in group.rows), 0)

    def _mark(self, group: AdaptedRows) -> int:
        return mark_of((self.kept[slot], weight) for slot, weight in group.adapters)


def mark_of(adapters: Iterable[tuple[bytes, float]]) -> int:
    """A number for a set, from digests and weights; 0 for none."""
    parts = sorted(digest + struct.pack("<d", weight) for digest, weight in adapters)
    if not parts:
        return 0
    return 1 | int.from_bytes(hashlib.blake2b(b"".join(parts), digest_size=3).digest(), "little")


def marked(token: int, mark: int) -> int:
    """A token as it is seen where it was computed with adapters."""
    return token if not mark else (token * 31 + mark) % 2**30 + 2**30
