"""The durable process index: rows that gateways write and read back after a restart."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
from pie_wire.messages.common import ProcessInfo

from pie_kvstore import names
from pie_kvstore.schema import ENDED_SECONDS
from pie_kvstore.store import Store

SWEEP_BATCH = 1000


class Processes:
    """One row per process, kept until ten minutes after its end."""

    def __init__(self, store: Store, now: Callable[[], float]) -> None:
        """`now` gives Unix seconds."""
        self._store = store
        self._now = now

    def put(self, rows: Sequence[ProcessInfo]) -> None:
        """Write rows, all or none. Raises BadField."""
        for row in rows:
            names.pid(row.pid)
            names.owner(row.tenant, row.user)
        if not rows:
            return
        with self._store.use() as redis:
            pipe = redis.pipeline(transaction=True)
            pipe.hset(self._store.keys.processes, mapping={row.pid: msgspec.json.encode(row) for row in rows})
            for row in rows:
                if row.ended_at:
                    pipe.zadd(self._store.keys.ending, {row.pid: row.ended_at + ENDED_SECONDS})
                else:
                    pipe.zrem(self._store.keys.ending, row.pid)
            pipe.execute()

    def list(self) -> list[ProcessInfo]:
        """All rows that have not expired, oldest first."""
        with self._store.use() as redis:
            rows = redis.hvals(self._store.keys.processes)
        found = [msgspec.json.decode(row, type=ProcessInfo) for row in rows]
        now = self._now()
        kept = [p for p in found if not p.ended_at or p.ended_at + ENDED_SECONDS > now]
        return sorted(kept, key=lambda p: (p.created_at, p.pid))

    def sweep(self) -> None:
        """Remove expired rows, a batch at a time."""
        with self._store.use() as redis:
            expired = redis.zrangebyscore(self._store.keys.ending, "-inf", self._now(), start=0, num=SWEEP_BATCH)
            if expired:
                pids = [pid.decode() for pid in expired]
                pipe = redis.pipeline(transaction=True)
                pipe.hdel(self._store.keys.processes, *pids)
                pipe.zrem(self._store.keys.ending, *pids)
                pipe.execute()
