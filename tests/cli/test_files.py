"""What the CLI keeps on disk: paths, state, logs."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from pie_cli.child import Child
from pie_cli.log_files import KEPT, last_reason, parse_line, rotate, tail
from pie_cli.logs import _fresh, _readable
from pie_cli.paths import MAX_SOCKET_PATH, StackPaths
from pie_cli.plan import plan_stack
from pie_cli.state import StackState, is_up, own_stack, read_state, running, write_state
from pie_wire.errors import BadRequest, Conflict


def state(pid: int = 1) -> StackState:
    return StackState(supervisor=pid, phase="ready", started_at=0.0, model="m", endpoint="e", kvstore="k")


def test_sockets_lie_in_the_home_if_they_fit(tmp_path: Path):
    short, long = StackPaths(Path("/tmp/h")), StackPaths(tmp_path / ("x" * 100))

    assert short.sockets == Path("/tmp/h/run")
    assert long.sockets.parent == Path("/tmp")
    for paths in (short, long):
        plan = plan_stack(paths, model="m", model_folder="/m", runners=64, http_port=None)
        endpoints = [v for s in plan.services for v in s.environment.values() if v.startswith("ipc://")]
        assert endpoints
        assert all(len(e.removeprefix("ipc://")) <= MAX_SOCKET_PATH for e in endpoints)


def test_two_homes_never_share_sockets(tmp_path: Path):
    homes = [StackPaths(tmp_path / ("x" * 100) / name) for name in "ab"]

    assert homes[0].sockets != homes[1].sockets


def test_folders_are_private(tmp_path: Path):
    paths = StackPaths(tmp_path / "home")
    paths.make()

    assert stat.S_IMODE(paths.sockets.stat().st_mode) == 0o700
    assert stat.S_IMODE(paths.logs.stat().st_mode) == 0o700


def test_a_home_that_cannot_be_made_is_a_typed_error(tmp_path: Path):
    (tmp_path / "file").write_text("")

    with pytest.raises(BadRequest, match="PIE_HOME"):
        StackPaths(tmp_path / "file").make()


def test_the_state_is_read_back_and_garbage_is_none(tmp_path: Path):
    paths = StackPaths(tmp_path)
    paths.make()
    assert read_state(paths) is None
    write_state(paths, state())
    assert read_state(paths) == state()

    paths.state.write_text("{")
    assert read_state(paths) is None


def test_up_means_that_a_supervisor_holds_the_lock(tmp_path: Path):
    paths = StackPaths(tmp_path)
    paths.make()
    write_state(paths, state())
    assert running(paths) is None

    with own_stack(paths):
        assert running(paths) == state()
        with pytest.raises(Conflict), own_stack(paths, patience=0.0):
            pass

    assert not is_up(paths)


def test_logs_rotate_and_their_writer_goes_on(tmp_path: Path):
    path = tmp_path / "s.log"
    with path.open("ab", buffering=0) as writer:
        for number in range(KEPT + 2):
            writer.write(b"%d" % number * 100)
            assert rotate(path, max_bytes=100)
        writer.write(b"now")

    assert path.read_bytes() == b"now"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s.log", *(f"s.log.{n}" for n in range(1, KEPT + 1))]
    assert path.with_name("s.log.1").read_bytes() == b"%d" % (KEPT + 1) * 100
    assert not rotate(path)


def test_tail(tmp_path: Path):
    path = tmp_path / "s.log"
    assert tail(path, 5) == []
    path.write_text("a\nb\nc\n")
    assert tail(path, 2) == ["b", "c"]


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (['{"event": "cannot run", "level": "error", "reason": "no model"}'], "no model"),
        (['{"event": "broken", "level": "error"}', '{"event": "bye", "level": "info"}'], "broken"),
        (["Traceback ...", "ValueError: x", ""], "ValueError: x"),
        (['{"event": "ready", "level": "info"}'], ""),
    ],
)
def test_why_a_process_ended(lines: list[str], reason: str):
    assert last_reason(lines) == reason


def test_log_lines_for_people():
    line = '{"event": "ready", "level": "info", "timestamp": "2026-01-02T03:04:05.678Z", "port": 1, "name": "gateway"}'

    text = _readable("gateway", line, parse_line(line))

    assert text.startswith("03:04:05.678")
    assert "ready" in text
    assert "port=1" in text
    assert _readable("engine-0", "plain", None).endswith("plain")


def test_following_reads_whole_new_lines_also_after_rotation(tmp_path: Path):
    path = tmp_path / "s.log"
    path.write_text("old\n")
    positions = {path: path.stat().st_size}

    with path.open("a") as writer:
        writer.write("one\ntw")
    assert [line for _, line in _fresh(positions)] == ["one"]
    with path.open("a") as writer:
        writer.write("o\n")
    assert [line for _, line in _fresh(positions)] == ["two"]

    path.write_text("new\n")
    assert [line for _, line in _fresh(positions)] == ["new"]


def test_runners_of_tenants_come_after_those_for_all(tmp_path: Path):
    plan = plan_stack(
        StackPaths(tmp_path), model="m", model_folder="/m", runners=1, http_port=None, runners_for=["acme", "globex"]
    )
    runners = {s.name: s.environment.get("PIE_RUNNER_DEDICATED_TO") for s in plan.services if s.kind == "runner"}

    assert runners == {"runner-0": None, "runner-1": "acme", "runner-2": "globex"}


def test_a_child_waits_longer_each_time_and_then_gives_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    paths = StackPaths(tmp_path)
    paths.make()
    plan = plan_stack(paths, model="m", model_folder="/m", runners=0, http_port=None).services[0]
    now = 0.0
    child = Child(plan, paths, lambda: now)
    monkeypatch.setattr(type(plan), "command", ["false"])
    child.start()
    waits: list[float] = []
    while child.state != "failed":
        child.mark_ready()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert child.tend()
        begun = now
        while child.state == "waiting":
            now += 0.05
            child.tend()
        waits.append(now - begun)

    assert waits == [*sorted(waits[:-1]), 0.0]
    assert child.error.startswith("died 5 times")
    assert child.revive()
    child.kill()
