"""Requests to load, unload and list adapters, answered when they are carried out.

Reading a file takes long, so it is the shell's: it asks for the next load, reads, and brings back facts or an error.
One file is read at a time, as what the next may take depends on it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import structlog
from pie_wire.errors import InternalError, Overloaded, PieError
from pie_wire.hub import Hub, Incoming
from pie_wire.messages.engine import AdapterInfo, AdapterList, ListAdapters, LoadAdapter, UnloadAdapter

from pie_engine.adapters.spans import AdapterVersion
from pie_engine.adapters.table import AdapterTable
from pie_engine.passes.device import AdapterFacts

_WAITING = 64

log = structlog.get_logger("pie.engine")


class AdapterRequests:
    """The hub's handlers only queue or look; the rest is called at step borders, when no pass is executed."""

    def __init__(self, hub: Hub, table: AdapterTable) -> None:
        self._table = table
        self._loads: deque[Incoming[LoadAdapter]] = deque()
        self._unloads: deque[Incoming[UnloadAdapter]] = deque()
        self._reading: Incoming[LoadAdapter] | None = None
        hub.on(LoadAdapter, self._load)
        hub.on(UnloadAdapter, self._unload)
        hub.on(ListAdapters, self._list)

    def apply(self) -> None:
        """Carry out what came since the last step border."""
        while self._unloads:
            incoming = self._unloads.popleft()
            try:
                gone = self._table.remove(incoming.message.adapter)
            except PieError as error:
                incoming.fail(error)
            except Exception as exc:
                log.error("a bug, contained: it ended one request", exc_info=exc)
                incoming.fail(InternalError(f"a bug of the engine ended this request: {type(exc).__name__}"))
            else:
                incoming.reply(self._reply(gone))

    def take_dropped(self) -> list[int]:
        """Slots that no batch will name again."""
        return self._table.sweep()

    def next_load(self) -> tuple[str, int] | None:
        """The folder to read now and the bytes its adapter may take. `loaded` or `failed` must follow."""
        while self._reading is None and self._loads:
            incoming = self._loads.popleft()
            try:
                self._table.check_name(incoming.message.name)
            except PieError as error:
                incoming.fail(error)
                continue
            self._reading = incoming
            return incoming.message.folder, self._table.left
        return None

    def loaded(self, facts: AdapterFacts) -> int | None:
        """The adapter has been read: the slot under which the device must keep it, or None for one that it need
        not keep."""
        incoming, self._reading = self._reading, None
        if incoming is None:
            return None
        try:
            version, is_new = self._table.add(incoming.message.name, facts)
        except PieError as error:
            incoming.fail(error)
            return None
        incoming.reply(_info(version))
        return version.slot if is_new else None

    def failed(self, error: PieError) -> None:
        """The adapter could not be read."""
        incoming, self._reading = self._reading, None
        if incoming is not None:
            incoming.fail(error)

    def _load(self, incoming: Incoming[LoadAdapter]) -> None:
        if len(self._loads) >= _WAITING:
            incoming.fail(Overloaded(f"{_WAITING} adapters wait to be loaded: try again when some are"))
        else:
            self._loads.append(incoming)

    def _unload(self, incoming: Incoming[UnloadAdapter]) -> None:
        if len(self._unloads) >= _WAITING:
            incoming.fail(Overloaded(f"{_WAITING} adapters wait to be unloaded at the end of a step: try again"))
        else:
            self._unloads.append(incoming)

    def _list(self, incoming: Incoming[ListAdapters]) -> None:
        incoming.reply(self._reply(self._table.versions))

    def _reply(self, versions: Iterable[AdapterVersion]) -> AdapterList:
        return AdapterList([_info(version) for version in versions], self._table.used, self._table.limit)


def _info(version: AdapterVersion) -> AdapterInfo:
    return AdapterInfo(
        version.name, version.digest.hex(), version.state, version.users, version.size, version.rank, version.modules
    )
