"""Both event logs keep the same promises; the SQLite one also over kill -9 and damage."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from pie_gateway.log import EventLog, LogError
from pie_gateway.memory_log import MemoryEventLog
from pie_gateway.record import ProcessRecord
from pie_gateway.sqlite_log import SqliteEventLog
from pie_wire.errors import ErrorInfo, Unavailable
from pie_wire.messages.common import Event


@pytest.fixture(params=["memory", "sqlite"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EventLog]:
    made: EventLog = MemoryEventLog() if request.param == "memory" else SqliteEventLog(tmp_path / "log.sqlite")
    yield made
    made.close()


def record(pid: str, created_at: float = 1.0, **fields: object) -> ProcessRecord:
    values = {"program": "p", "fingerprint": b"f", "tenant": "t", "user": "u", "on_disconnect": "continue"}
    return ProcessRecord(pid=pid, created_at=created_at, runner="r", incarnation="i", **{**values, **fields})  # type: ignore[arg-type]


def events(pid: str, *numbers: int, size: int = 10) -> list[tuple[str, Event]]:
    return [(pid, Event(n, "message", "x" * size)) for n in numbers]


def test_records_come_back_as_they_were_oldest_first(log: EventLog):
    young = record("b", 2.0, state="failed", error=ErrorInfo("trapped", "boom"), last_seq=4, consumed=2)
    old = record("a", 1.0)
    log.commit([young, old])

    assert log.load() == [old, young]
    assert log.find("b") == young
    assert log.find("c") is None


def test_reading_is_bounded_by_count_and_size_but_never_empty(log: EventLog):
    log.commit([record("a")], events("a", *range(1, 11)))

    assert [e.seq for e in log.read("a", 3, events=4, size=10_000)] == [3, 4, 5, 6]
    assert [e.seq for e in log.read("a", 1, events=100, size=100)] == [1, 2]
    assert [e.seq for e in log.read("a", 9, events=100, size=1)] == [9]
    assert log.read("a", 11, events=100, size=100) == []
    assert log.read("b", 1, events=100, size=100) == []


def test_events_keep_all_their_fields(log: EventLog):
    all_kinds = [
        Event(1, "started"),
        Event(2, "binary", data=b"\0\xff"),
        Event(3, "error", error=ErrorInfo("process_lost", "gone", True, "process", "peer_lost")),
    ]
    log.commit([record("a")], [("a", e) for e in all_kinds])

    assert log.read("a", 1, events=10, size=10_000) == all_kinds


def test_events_committed_without_their_record_are_counted_when_it_is_loaded(log: EventLog):
    log.commit([record("a")])
    log.commit([], events("a", 1, 2, 3))
    log.commit([record("b", 2.0, last_seq=2, kept_bytes=84)], events("b", 1, 2))
    log.commit([], events("b", 3))

    assert log.load() == [record("a", last_seq=3, kept_bytes=126), record("b", 2.0, last_seq=3, kept_bytes=126)]


def test_trim_takes_the_oldest_up_to_a_number_until_enough_is_free(log: EventLog):
    row = record("a", last_seq=10, kept_bytes=420)
    log.commit([row], events("a", *range(1, 11)))

    assert log.trim(row, 10, 100) == 126
    assert (row.first_seq, row.kept_bytes) == (4, 294)
    assert log.trim(row, 5, 1000) == 84
    assert log.trim(row, 5, 1000) == 0

    assert log.load() == [row]
    assert row.first_seq == 6
    assert [e.seq for e in log.read("a", 6, events=10, size=10_000)] == [6, 7, 8, 9, 10]


def test_expired_records_are_found_but_not_loaded_until_they_are_purged(log: EventLog):
    row = record("a", ended_at=50.0, state="returned")
    log.commit([row, record("b")], events("a", 1))
    log.expire(row)

    assert [r.pid for r in log.load()] == ["b"]
    found = log.find("a")
    assert found is not None
    assert found.expired
    assert log.read("a", 1, events=1, size=1) == []
    log.purge(50.0)
    assert log.find("a") is not None
    log.purge(50.1)
    assert log.find("a") is None
    assert log.find("b") is not None


def test_forgotten_ids_are_as_new(log: EventLog):
    log.commit([record("a")], events("a", 1))
    log.forget("a")

    assert log.find("a") is None
    log.commit([record("a")], events("a", 1))


def test_a_failed_commit_leaves_nothing(tmp_path: Path):
    log = SqliteEventLog(tmp_path / "log.sqlite")
    log.commit([record("a")], events("a", 1))

    with pytest.raises(LogError):
        log.commit([record("b")], events("a", 2, 1))

    assert log.find("b") is None
    assert [e.seq for e in log.read("a", 1, events=9, size=999)] == [1]


def test_what_was_committed_survives_kill_9(tmp_path: Path):
    child = os.fork()
    if child == 0:
        log = SqliteEventLog(tmp_path / "log.sqlite")
        log.commit([record("a")], events("a", *range(1, 1001)))
        os.kill(os.getpid(), signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL

    log = SqliteEventLog(tmp_path / "log.sqlite")

    assert len(log.read("a", 1, events=5000, size=10**9)) == 1000


def test_only_one_gateway_can_have_the_file(tmp_path: Path):
    first = SqliteEventLog(tmp_path / "log.sqlite")

    with pytest.raises(Unavailable, match="another gateway"):
        SqliteEventLog(tmp_path / "log.sqlite")
    first.close()
    SqliteEventLog(tmp_path / "log.sqlite").close()


def test_a_damaged_file_is_set_aside(tmp_path: Path):
    path = tmp_path / "log.sqlite"
    path.write_bytes(b"this is no database" * 1000)

    log = SqliteEventLog(path)

    assert log.load() == []
    assert [p.name for p in tmp_path.glob("*.damaged-*")] == ["log.damaged-1"]


def test_the_file_is_for_its_owner_only(tmp_path: Path):
    SqliteEventLog(tmp_path / "log.sqlite")
    assert (tmp_path / "log.sqlite").stat().st_mode & 0o077 == 0
