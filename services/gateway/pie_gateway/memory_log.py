"""An event log in memory. Handing the same object to a second core simulates a restart of the gateway."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from pie_wire.messages.common import Event

from pie_gateway.record import ProcessRecord


class MemoryEventLog:
    """Implements EventLog. Records are copied in and out, as a database would."""

    def __init__(self) -> None:
        self._records: dict[str, ProcessRecord] = {}
        self._events: dict[str, dict[int, Event]] = {}

    def load(self) -> list[ProcessRecord]:
        kept = [r for r in self._records.values() if not r.expired]
        return [self._brought_up(r) for r in sorted(kept, key=lambda r: r.created_at)]

    def find(self, pid: str) -> ProcessRecord | None:
        found = self._records.get(pid)
        return msgspec.structs.replace(found) if found else None

    def commit(self, records: Sequence[ProcessRecord], events: Sequence[tuple[str, Event]] = ()) -> None:
        for record in records:
            self._records[record.pid] = msgspec.structs.replace(record)
        for pid, event in events:
            self._events.setdefault(pid, {})[event.seq] = event

    def read(self, pid: str, start: int, *, events: int, size: int) -> list[Event]:
        kept = self._events.get(pid, {})
        out: list[Event] = []
        seq = start
        while seq in kept and len(out) < events and (not out or size >= kept[seq].size):
            out.append(kept[seq])
            size -= kept[seq].size
            seq += 1
        return out

    def trim(self, record: ProcessRecord, last: int, size: int) -> int:
        kept = self._events.get(record.pid, {})
        freed = 0
        for seq in sorted(kept):
            if seq > last or freed >= size:
                break
            freed += kept.pop(seq).size
            record.first_seq = seq + 1
        record.kept_bytes -= freed
        self.commit([record])
        return freed

    def expire(self, record: ProcessRecord) -> None:
        self._records[record.pid] = msgspec.structs.replace(record, expired=True)
        self._events.pop(record.pid, None)

    def forget(self, pid: str) -> None:
        self._records.pop(pid, None)
        self._events.pop(pid, None)

    def purge(self, before: float) -> None:
        for pid in [r.pid for r in self._records.values() if r.expired and r.ended_at < before]:
            del self._records[pid]

    def close(self) -> None:
        pass

    def _brought_up(self, record: ProcessRecord) -> ProcessRecord:
        newer = [event for seq, event in self._events.get(record.pid, {}).items() if seq > record.last_seq]
        return msgspec.structs.replace(
            record,
            last_seq=max([record.last_seq, *(event.seq for event in newer)]),
            kept_bytes=record.kept_bytes + sum(event.size for event in newer),
        )
