"""Snapshot names: contexts saved as lineage, per tenant and user."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from pie_wire.errors import Conflict, NotFound, TooLarge
from pie_wire.messages.kvstore import Snapshot

from pie_kvstore import names
from pie_kvstore.archives import Archives
from pie_kvstore.schema import owner_key
from pie_kvstore.store import Store

MAX_SNAPSHOTS = 10_000
"""Per user."""


class Snapshots:
    """The authority for snapshot names. What an operation changes is one Redis transaction; kvstore is alone in writing
    them and does one operation after the other, so that what it read before is what it replaces."""

    def __init__(self, store: Store, archives: Archives, now: Callable[[], float]) -> None:
        """`now` gives Unix seconds."""
        self._store = store
        self._archives = archives
        self._now = now

    def put(self, tenant: str, user: str, snapshot: Snapshot) -> None:
        """Save, replacing what the name held. Raises BadField, NotFound (its data is not there), TooLarge."""
        names.snapshot(snapshot.name)
        if snapshot.data:
            names.digest(snapshot.data)
        owner = self._owner(tenant, user)
        key = self._store.keys.snapshots(owner)
        if not snapshot.saved_at:
            snapshot = msgspec.structs.replace(snapshot, saved_at=self._now())
        with self._store.use() as redis:
            old = self._find(owner, snapshot.name)
            if old is None and redis.hlen(key) >= MAX_SNAPSHOTS:
                raise TooLarge(f"{user} has {MAX_SNAPSHOTS} snapshots: delete some first")
            pipe = redis.pipeline(transaction=True)
            pipe.hset(key, snapshot.name, msgspec.json.encode(snapshot))
            self._archives.exchange(pipe, owner, old.data if old is not None else "", snapshot.data)
            pipe.execute()

    def get(self, tenant: str, user: str, name: str, *, take: bool, data: str | None = None) -> Snapshot:
        """Read, and with `take` delete. Raises NotFound; Conflict when it is to be taken with other data."""
        names.snapshot(name)
        owner = self._owner(tenant, user)
        found = self._find(owner, name)
        if found is None:
            raise NotFound(f"no snapshot {name!r}: save one under this name first")
        if take:
            if data is not None and found.data != data:
                raise Conflict(f"snapshot {name!r} was replaced meanwhile: read it again")
            self._remove(owner, found)
        return found

    def delete(self, tenant: str, user: str, name: str) -> None:
        """Forget a name. Raises NotFound."""
        names.snapshot(name)
        owner = self._owner(tenant, user)
        found = self._find(owner, name)
        if found is None:
            raise NotFound(f"no snapshot {name!r}")
        self._remove(owner, found)

    def list(self, tenant: str, user: str) -> list[str]:
        """All names of a user, sorted."""
        with self._store.use() as redis:
            return sorted(name.decode() for name in redis.hkeys(self._store.keys.snapshots(self._owner(tenant, user))))

    def _remove(self, owner: str, snapshot: Snapshot) -> None:
        with self._store.use() as redis:
            pipe = redis.pipeline(transaction=True)
            pipe.hdel(self._store.keys.snapshots(owner), snapshot.name)
            self._archives.exchange(pipe, owner, snapshot.data, "")
            pipe.execute()

    def _find(self, owner: str, name: str) -> Snapshot | None:
        with self._store.use() as redis:
            row = redis.hget(self._store.keys.snapshots(owner), name)
        return msgspec.json.decode(row, type=Snapshot) if row is not None else None

    def _owner(self, tenant: str, user: str) -> str:
        return owner_key(*names.owner(tenant, user))
