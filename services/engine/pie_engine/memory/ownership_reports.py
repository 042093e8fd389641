"""Tells kvstore who holds which pages."""

from __future__ import annotations

from collections.abc import Callable

from pie_wire.hub import Answer, Hub, Peer
from pie_wire.messages.base import Done
from pie_wire.messages.common import PoolStats
from pie_wire.messages.kvstore import PutPages

from pie_engine.contexts.context_table import ContextTable
from pie_engine.memory.ownership import Ownership

KVSTORE = "kvstore"
"""Name of the hub's port to kvstore; reports go there while it is up."""
_SECONDS = 0.5
"""Between two reports, at least."""
_TIMEOUT = 5.0


class OwnershipReports:
    """One report at a time; after one that failed, or a new link, everything is told again."""

    def __init__(
        self, hub: Hub, ownership: Ownership, table: ContextTable, pool_stats: Callable[[], PoolStats]
    ) -> None:
        self._hub = hub
        self._ownership = ownership
        self._table = table
        self._pool_stats = pool_stats
        self._reported = 0.0
        self._pending = False
        hub.on_up(self._up)

    def tick(self) -> None:
        """Report when something has changed and the last report is over."""
        now = self._hub.clock()
        peer = self._hub.peer(KVSTORE)
        if peer is None or self._pending or now - self._reported < _SECONDS:
            return
        changes = self._ownership.changes(self._table.contexts)
        self._reported = now
        if changes is None:
            return
        who = self._hub.identity
        self._pending = True
        report = PutPages(who.name, who.epoch, changes.rows, changes.dropped, self._pool_stats(), changes.full)
        self._hub.request(peer, report, self._put, timeout=_TIMEOUT)

    def _up(self, peer: Peer) -> None:
        if peer.port == KVSTORE:
            self._ownership.resync()
            self._pending = False

    def _put(self, answer: Answer[Done]) -> None:
        self._pending = False
        if answer.error is not None:
            self._ownership.resync()
