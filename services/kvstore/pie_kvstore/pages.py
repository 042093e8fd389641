"""Page ownership: which context of which process holds how many pages of which engine."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from pie_wire.errors import Conflict, StaleEpoch
from pie_wire.messages.common import PageRow
from pie_wire.messages.kvstore import EnginePages, PutPages

from pie_kvstore import names
from pie_kvstore.schema import PoolHead
from pie_kvstore.store import Store


class PageRows:
    """One row per context that owns pages, per engine. The engine is the authority; these are its net state."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def put(self, change: PutPages) -> None:
        """Apply a net change in one transaction; a full one replaces all rows, those of earlier epochs too.

        Raises:
            StaleEpoch: a newer incarnation of the engine has written already.
            Conflict: a first report that is not full, because earlier rows are gone with an outage or a lost lease.
        """
        names.member(change.engine)
        head = self._heads().get(change.engine)
        if head is not None and head.epoch > change.epoch:
            raise StaleEpoch(f"engine {change.engine} has a newer incarnation: this one must stop")
        if not change.full and (head is None or head.epoch != change.epoch):
            raise Conflict(f"no rows of engine {change.engine} to change: report them in full")
        rows = {_field(r.runner, r.epoch, r.context): msgspec.json.encode(r) for r in change.rows}
        gone = [f for f in (_field(*d) for d in change.dropped) if f not in rows]
        key = self._store.keys.pages(change.engine)
        with self._store.use() as redis:
            pipe = redis.pipeline(transaction=True)
            if change.full:
                pipe.delete(key)
            if gone:
                pipe.hdel(key, *gone)
            if rows:
                pipe.hset(key, mapping=rows)
            pipe.hset(self._store.keys.pools, change.engine, msgspec.json.encode(PoolHead(change.epoch, change.pool)))
            pipe.execute()

    def list(self) -> list[EnginePages]:
        """All engines' pools and rows, by engine, runner and context."""
        pages: list[EnginePages] = []
        for engine, head in sorted(self._heads().items()):
            with self._store.use() as redis:
                found = redis.hvals(self._store.keys.pages(engine))
            rows = [msgspec.json.decode(row, type=PageRow) for row in found]
            rows.sort(key=lambda r: (r.runner, r.epoch, r.context))
            pages.append(EnginePages(engine, head.pool, rows))
        return pages

    def keep_only(self, living: Mapping[str, int]) -> None:
        """Remove the rows of engines whose epoch is not in `living` (engine -> epoch)."""
        for engine, head in self._heads().items():
            if living.get(engine) != head.epoch:
                with self._store.use() as redis:
                    pipe = redis.pipeline(transaction=True)
                    pipe.delete(self._store.keys.pages(engine))
                    pipe.hdel(self._store.keys.pools, engine)
                    pipe.execute()

    def _heads(self) -> dict[str, PoolHead]:
        with self._store.use() as redis:
            found = redis.hgetall(self._store.keys.pools)
        return {engine.decode(): msgspec.json.decode(head, type=PoolHead) for engine, head in found.items()}


def _field(runner: str, epoch: int, context: int) -> str:
    return f"{runner}/{epoch}/{context}"
