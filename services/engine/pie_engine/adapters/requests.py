"""Requests to load, unload and list adapters, answered when they are carried out.

Reading a file takes long, so it is the shell's: it asks for the next load, reads, and brings back facts or an error.
One file is read at a time, as what the next may take depends on it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import structlog
from pie_wire.errors import InternalError, Overloaded, PieError
from pie_wire.hub import Hub, Incoming
from pie_wire.messages.engine import AdapterInfo, AdapterList, ListAdapters, LoadAdapter, UnloadAdapter

from pie_engine.adapters.remembered import RememberedAdapters
from pie_engine.adapters.spans import AdapterVersion
from pie_engine.adapters.table import AdapterTable
from pie_engine.passes.device import AdapterFacts

_WAITING = 64

log = structlog.get_logger("pie.engine")


@dataclass(frozen=True)
class _Load:
    """An adapter to be read, and who is told what comes of it."""

    name: str
    folder: str
    reply: Callable[[AdapterInfo], object]
    fail: Callable[[PieError], object]


class AdapterRequests:
    """The hub's handlers only queue or look; the rest is called at step borders, when no pass is executed."""

    def __init__(self, hub: Hub, table: AdapterTable) -> None:
        self._table = table
        self._remembered: RememberedAdapters | None = None
        self._loads: deque[_Load] = deque()
        self._unloads: deque[Incoming[UnloadAdapter]] = deque()
        self._reading: _Load | None = None
        hub.on(LoadAdapter, self._load)
        hub.on(UnloadAdapter, self._unload)
        hub.on(ListAdapters, self._list)

    def remember(self, remembered: RememberedAdapters) -> None:
        """Load what is remembered, and remember what is loaded from now on. What cannot be loaded stays remembered: its
        folder may be there next time."""
        self._remembered = remembered

        def failed(name: str) -> Callable[[PieError], object]:
            return lambda error: log.warning("an adapter could not be loaded again", adapter=name, reason=error.message)

        for name, folder in remembered.folders.items():
            self._loads.append(_Load(name, folder, lambda _: None, failed(name)))

    @property
    def is_loading(self) -> bool:
        """Whether an adapter is read or waits for it."""
        return self._reading is not None or bool(self._loads)

    def apply(self) -> None:
        """Carry out what came since the last step border."""
        while self._unloads:
            incoming = self._unloads.popleft()
            reference = incoming.message.adapter
            try:
                gone = self._table.remove(reference)
                self._forget(reference)
            except PieError as error:
                self._forget(reference)
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
            load = self._loads.popleft()
            try:
                self._table.check_name(load.name)
            except PieError as error:
                load.fail(error)
                continue
            self._reading = load
            return load.folder, self._table.left
        return None

    def loaded(self, facts: AdapterFacts) -> int | None:
        """The adapter has been read: the slot under which the device must keep it, or None for one that it need
        not keep."""
        load, self._reading = self._reading, None
        if load is None:
            return None
        try:
            version, is_new = self._table.add(load.name, facts)
        except PieError as error:
            load.fail(error)
            return None
        if self._remembered is not None:
            self._remembered.keep(load.name, load.folder)
        load.reply(_info(version))
        return version.slot if is_new else None

    def failed(self, error: PieError) -> None:
        """The adapter could not be read."""
        load, self._reading = self._reading, None
        if load is not None:
            load.fail(error)

    def _load(self, incoming: Incoming[LoadAdapter]) -> None:
        if len(self._loads) >= _WAITING:
            incoming.fail(Overloaded(f"{_WAITING} adapters wait to be loaded: try again when some are"))
        else:
            message = incoming.message
            self._loads.append(_Load(message.name, message.folder, incoming.reply, incoming.fail))

    def _forget(self, reference: str) -> None:
        """A name that means nothing any more is not loaded again."""
        name = reference.partition("@")[0]
        is_there = any(v.name == name and v.state == "current" for v in self._table.versions)
        if self._remembered is not None and not is_there:
            self._remembered.forget(name)

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
