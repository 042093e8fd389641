"""The event log as one SQLite file.

WAL with synchronous=OFF: a commit is in the operating system's hands before it returns, so it survives the death of
the process, which is what a gateway restart needs; it may not survive a power cut, where the processes are gone too.
The file is therefore checked when it was last opened under another boot.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Generator, Sequence
from pathlib import Path

import msgspec
import structlog
from pie_wire.errors import Unavailable
from pie_wire.messages.common import Event
from pie_wire.process import host_id

from pie_gateway.log import LogError
from pie_gateway.record import ProcessRecord

SCHEMA_VERSION = 1
SCHEMA = """
CREATE TABLE IF NOT EXISTS processes (
    pid TEXT PRIMARY KEY, created_at REAL NOT NULL, ended_at REAL NOT NULL, expired INTEGER NOT NULL, body BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS expired_processes ON processes (ended_at) WHERE expired;
CREATE TABLE IF NOT EXISTS opened_by (host TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS events (
    pid TEXT NOT NULL, seq INTEGER NOT NULL, size INTEGER NOT NULL, body BLOB NOT NULL, PRIMARY KEY (pid, seq)
);
"""

log = structlog.get_logger("pie.gateway.log")

_encoder = msgspec.msgpack.Encoder()
_events = msgspec.msgpack.Decoder(Event)
_records = msgspec.msgpack.Decoder(ProcessRecord)


class SqliteEventLog:
    """Implements EventLog. Holds the file exclusively for as long as it is open."""

    def __init__(self, path: Path) -> None:
        """Open or create. A file that is damaged, or of another schema, is set aside with a warning.

        Raises:
            Unavailable: another gateway has the file open.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._db = _open(path)
        except sqlite3.OperationalError as exc:
            raise Unavailable(f"cannot open the event log {path}: {exc}: is another gateway running there?") from exc
        except (sqlite3.DatabaseError, msgspec.MsgspecError) as exc:
            aside = _set_aside(path)
            log.warning("event log unreadable, starting a new one", path=str(path), kept_as=str(aside), reason=str(exc))
            self._db = _open(path)

    def load(self) -> list[ProcessRecord]:
        with _failing():
            rows = self._db.execute("SELECT body FROM processes WHERE NOT expired ORDER BY created_at").fetchall()
            return [self._brought_up(_records.decode(body)) for (body,) in rows]

    def find(self, pid: str) -> ProcessRecord | None:
        with _failing():
            row = self._db.execute("SELECT body FROM processes WHERE pid = ?", (pid,)).fetchone()
            return _records.decode(row[0]) if row else None

    def commit(self, records: Sequence[ProcessRecord], events: Sequence[tuple[str, Event]] = ()) -> None:
        with self._transaction():
            if records:
                self._put(records)
            if events:
                rows = [(pid, event.seq, event.size, _encoder.encode(event)) for pid, event in events]
                self._db.executemany("INSERT INTO events VALUES (?, ?, ?, ?)", rows)

    def read(self, pid: str, start: int, *, events: int, size: int) -> list[Event]:
        out: list[Event] = []
        with _failing():
            query = "SELECT size, body FROM events WHERE pid = ? AND seq >= ? ORDER BY seq LIMIT ?"
            for weight, body in self._db.execute(query, (pid, start, events)):
                if out and weight > size:
                    break
                size -= weight
                out.append(_events.decode(body))
        return out

    def trim(self, record: ProcessRecord, last: int, size: int) -> int:
        freed = 0
        with self._transaction():
            query = "SELECT seq, size FROM events WHERE pid = ? AND seq <= ? ORDER BY seq"
            for seq, weight in self._db.execute(query, (record.pid, last)):
                if freed >= size:
                    break
                record.first_seq, freed = seq + 1, freed + weight
            record.kept_bytes -= freed
            self._db.execute("DELETE FROM events WHERE pid = ? AND seq < ?", (record.pid, record.first_seq))
            self._put([record])
        return freed

    def expire(self, record: ProcessRecord) -> None:
        with self._transaction():
            self._put([msgspec.structs.replace(record, expired=True)])
            self._db.execute("DELETE FROM events WHERE pid = ?", (record.pid,))

    def forget(self, pid: str) -> None:
        with self._transaction():
            self._db.execute("DELETE FROM processes WHERE pid = ?", (pid,))
            self._db.execute("DELETE FROM events WHERE pid = ?", (pid,))

    def purge(self, before: float) -> None:
        with self._transaction():
            self._db.execute("DELETE FROM processes WHERE expired AND ended_at < ?", (before,))

    def close(self) -> None:
        self._db.close()

    def _brought_up(self, record: ProcessRecord) -> ProcessRecord:
        query = "SELECT MAX(seq), TOTAL(size) FROM events WHERE pid = ? AND seq > ?"
        last, size = self._db.execute(query, (record.pid, record.last_seq)).fetchone()
        if last is not None:
            record.last_seq = last
            record.kept_bytes += int(size)
        return record

    def _put(self, records: Sequence[ProcessRecord]) -> None:
        rows = [(r.pid, r.created_at, r.ended_at, r.expired, _encoder.encode(r)) for r in records]
        self._db.executemany("INSERT OR REPLACE INTO processes VALUES (?, ?, ?, ?, ?)", rows)

    @contextlib.contextmanager
    def _transaction(self) -> Generator[None]:
        with _failing():
            self._db.execute("BEGIN")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")


@contextlib.contextmanager
def _failing() -> Generator[None]:
    try:
        yield
    except (sqlite3.Error, msgspec.MsgspecError) as exc:
        raise LogError(f"event log: {exc}") from exc


def _open(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, timeout=2.0)
    try:
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = OFF")
        db.execute("PRAGMA journal_size_limit = 67108864")
        db.execute("BEGIN EXCLUSIVE")
        db.execute("COMMIT")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version not in (0, SCHEMA_VERSION):
            raise sqlite3.DatabaseError(f"schema version {version}, expected {SCHEMA_VERSION}")
        db.executescript(SCHEMA)
        _check(db)
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        for (body,) in db.execute("SELECT body FROM processes WHERE NOT expired"):
            _records.decode(body)
    except BaseException:
        db.close()
        raise
    path.chmod(0o600)
    return db


def _check(db: sqlite3.Connection) -> None:
    host = host_id()
    if db.execute("SELECT 1 FROM opened_by WHERE host = ?", (host,)).fetchone():
        return
    (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise sqlite3.DatabaseError(verdict)
    db.execute("DELETE FROM opened_by")
    db.execute("INSERT INTO opened_by VALUES (?)", (host,))


def _set_aside(path: Path) -> Path:
    number = 1
    while (aside := path.with_suffix(f".damaged-{number}")).exists():
        number += 1
    path.rename(aside)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    return aside
