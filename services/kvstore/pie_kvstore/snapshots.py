"""Snapshot names: contexts saved as lineage, per tenant and user."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from pie_wire.errors import NotFound, TooLarge
from pie_wire.messages.kvstore import Snapshot

from pie_kvstore import names
from pie_kvstore.store import Store

MAX_SNAPSHOTS = 10_000
"""Per user."""


class Snapshots:
    """The authority for snapshot names. Each operation is one Redis transaction, so that a taker gets what it
    deletes, whoever replaces it meanwhile."""

    def __init__(self, store: Store, now: Callable[[], float]) -> None:
        """`now` gives Unix seconds."""
        self._store = store
        self._now = now

    def put(self, tenant: str, user: str, snapshot: Snapshot) -> None:
        """Save, replacing what the name held. Raises BadField, TooLarge."""
        names.snapshot(snapshot.name)
        key = self._key(tenant, user)
        if not snapshot.saved_at:
            snapshot = msgspec.structs.replace(snapshot, saved_at=self._now())
        with self._store.use() as redis:
            if redis.hlen(key) >= MAX_SNAPSHOTS and not redis.hexists(key, snapshot.name):
                raise TooLarge(f"{user} has {MAX_SNAPSHOTS} snapshots: delete some first")
            redis.hset(key, snapshot.name, msgspec.json.encode(snapshot))

    def get(self, tenant: str, user: str, name: str, *, take: bool) -> Snapshot:
        """Read, and with `take` delete in the same transaction. Raises NotFound."""
        names.snapshot(name)
        key = self._key(tenant, user)
        with self._store.use() as redis:
            pipe = redis.pipeline(transaction=True)
            pipe.hget(key, name)
            if take:
                pipe.hdel(key, name)
            row = pipe.execute()[0]
        if not isinstance(row, bytes):
            raise NotFound(f"no snapshot {name!r}: save one under this name first")
        return msgspec.json.decode(row, type=Snapshot)

    def delete(self, tenant: str, user: str, name: str) -> None:
        """Forget a name. Raises NotFound."""
        names.snapshot(name)
        with self._store.use() as redis:
            if not redis.hdel(self._key(tenant, user), name):
                raise NotFound(f"no snapshot {name!r}")

    def list(self, tenant: str, user: str) -> list[str]:
        """All names of a user, sorted."""
        with self._store.use() as redis:
            return sorted(name.decode() for name in redis.hkeys(self._key(tenant, user)))

    def _key(self, tenant: str, user: str) -> str:
        return self._store.keys.snapshots(*names.owner(tenant, user))
