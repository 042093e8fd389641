"""Exports that snapshots need beside their tokens: per user, by digest, within a limit, freed with the last name."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from pie_wire.errors import NotFound, TooLarge

from pie_kvstore import names
from pie_kvstore.artifacts import Artifacts
from pie_kvstore.store import Pipeline, Store

STAGED_SECONDS = 600.0
"""How long data counts against its user, after its last chunk, though no snapshot names it yet."""


class Archive(msgspec.Struct, frozen=True):
    """A row: `snapshots` name it; `at` is when its last chunk came, in Unix seconds."""

    size: int
    snapshots: int = 0
    at: float = 0.0


class Archives:
    """What is in the store of a user's data, and who needs it. Sizes count from the first chunk on."""

    def __init__(self, store: Store, artifacts: Artifacts, now: Callable[[], float], limit: int) -> None:
        """`limit` is of one user, in bytes."""
        self._store = store
        self._artifacts = artifacts
        self._now = now
        self._limit = limit

    def put(self, owner: str, sha256: str, size: int, offset: int, chunk: bytes | memoryview) -> tuple[int, bool]:
        """Take a chunk, as `Artifacts.put`. Raises TooLarge when the user has no room for `size` bytes."""
        names.digest(sha256)
        rows = self._rows(owner)
        row = rows.get(sha256)
        stale = [s for s, a in rows.items() if not a.snapshots and a.at < self._now() - STAGED_SECONDS and s != sha256]
        used = sum(a.size for s, a in rows.items() if s != sha256 and s not in stale)
        if used + size > self._limit:
            raise TooLarge(
                f"{size} bytes for a snapshot, and {used} that others of this user need, exceed snapshot_bytes = "
                f"{self._limit}: delete some snapshots; the operator can raise the limit (`snapshot_bytes` of kvstore)"
            )
        kept = Archive(size, row.snapshots if row is not None else 0, self._now())
        with self._store.use() as redis:
            pipe = redis.pipeline(transaction=True)
            for old in stale:
                self._forget(pipe, owner, old)
            pipe.hset(self._store.keys.archives(owner), sha256, msgspec.json.encode(kept))
            pipe.execute()
        return self._artifacts.put(sha256, size, offset, chunk, owner)

    def get(self, owner: str, sha256: str, offset: int) -> tuple[int, bytes]:
        """The size, and the chunk at `offset`. Raises NotFound, BadField."""
        return self._artifacts.get(sha256, offset, owner)

    def exchange(self, pipe: Pipeline, owner: str, old: str, new: str) -> None:
        """A snapshot that needed `old` needs `new` from the transaction on; either may be empty. Raises NotFound when
        `new` is not complete."""
        if old == new:
            return
        rows = self._rows(owner)
        key = self._store.keys.archives(owner)
        if new:
            size = self._artifacts.require(new, owner)
            row = rows.get(new)
            if row is None:
                raise NotFound(f"the data {new} of the snapshot was forgotten: send it again")
            pipe.hset(key, new, msgspec.json.encode(Archive(size, row.snapshots + 1, self._now())))
            pipe.persist(self._store.keys.artifact(new, owner))
        if old and old in rows:
            row = rows[old]
            if row.snapshots > 1:
                pipe.hset(key, old, msgspec.json.encode(Archive(row.size, row.snapshots - 1, row.at)))
            else:
                self._forget(pipe, owner, old)

    def _forget(self, pipe: Pipeline, owner: str, sha256: str) -> None:
        keys = self._store.keys
        pipe.hdel(keys.archives(owner), sha256)
        pipe.delete(keys.artifact(sha256, owner), keys.upload(sha256, owner))

    def _rows(self, owner: str) -> dict[str, Archive]:
        with self._store.use() as redis:
            found = redis.hgetall(self._store.keys.archives(owner))
        return {sha256.decode(): msgspec.json.decode(row, type=Archive) for sha256, row in found.items()}
