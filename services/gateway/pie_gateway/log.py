"""The durable memory of a gateway: process table and numbered events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pie_wire.messages.common import Event

from pie_gateway.record import ProcessRecord


class LogError(Exception):
    """The log cannot be written or read. The gateway must stop: what it was told is not durable, and after a restart
    the runners send it again."""


class EventLog(Protocol):
    """Every method raises LogError when the storage does. Calls are made from one thread and must be short."""

    def load(self) -> list[ProcessRecord]:
        """All records that are not expired, oldest first. Where events were committed without their record, `last_seq`
        and `kept_bytes` count them."""
        ...

    def find(self, pid: str) -> ProcessRecord | None:
        """One record, expired ones included."""
        ...

    def commit(self, records: Sequence[ProcessRecord], events: Sequence[tuple[str, Event]] = ()) -> None:
        """Store both or none. Events may come without the record of their process, unless its state has changed."""
        ...

    def read(self, pid: str, start: int, *, events: int, size: int) -> list[Event]:
        """Events from number `start` on: at most `events` of them and about `size` bytes, but one at least if there
        is one."""
        ...

    def trim(self, record: ProcessRecord, last: int, size: int) -> int:
        """Delete the oldest events, none above number `last`, until `size` bytes are free; update `first_seq` and
        `kept_bytes` of the record, here and in storage. Returns the bytes freed."""
        ...

    def expire(self, record: ProcessRecord) -> None:
        """Delete the events; keep the record, marked expired."""
        ...

    def forget(self, pid: str) -> None:
        """Delete record and events, as if the id had never been used."""
        ...

    def purge(self, before: float) -> None:
        """Delete expired records that ended before this Unix time."""
        ...

    def close(self) -> None: ...
