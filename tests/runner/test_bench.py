"""The benchmark of the runner measures what it says: its programs do what is asked, and its names are known."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pie_bench import tax
from pie_bench.runner import RunnerCase, RunnerReport, combine
from pie_runner.bench import calls, launches
from pie_runner.bench.__main__ import measurements
from pie_runner.bench.echo import EchoLink
from pie_runner.bench.programs import PROGRAMS
from pie_runner.bench.stand import Stand, must_end_well, stand
from pie_wire.errors import InternalError


@pytest.fixture
def bench() -> Iterator[Stand]:
    with stand() as made:
        yield made


def test_a_program_waits_as_often_as_asked(bench: Stand):
    life = bench.launch(bench.guest("tiny"), waits=3)

    for _ in range(3):
        bench.drive()
        assert life.is_parked
        life.echo.answer()
    bench.drive()

    must_end_well(life)


def test_a_program_that_has_not_ended_is_an_error(bench: Stand):
    life = bench.launch(bench.guest("tiny"), waits=1)
    bench.drive()

    with pytest.raises(InternalError, match="did not end"):
        must_end_well(life)


def test_the_echo_answers_each_program_once(bench: Stand):
    lives = [bench.launch(bench.guest("tiny"), waits=2) for _ in range(5)]
    bench.drive()

    with EchoLink() as link:
        link.ask(lives)
        bench.drive()
        assert all(life.is_parked for life in lives)
        link.ask(lives[:2])
        bench.drive()

    assert [life.ended is not None for life in lives] == [True, True, False, False, False]


def test_figures_have_the_names_of_their_measurement(bench: Stand, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(calls, "_CALLS", 10)
    monkeypatch.setattr(launches, "_LAUNCHES", 3)

    call = calls.host_call(bench, 2)
    launch = launches.launch(bench, "tiny", 1)

    assert [figure.name for figure in call] == ["host-call-us"]
    assert len(call[0].samples) == 2
    assert [figure.name for figure in launch] == ["launch-p50-ms.tiny", "launch-p99-ms.tiny"]
    assert all(figure.value > 0 for figure in call + launch)
    assert {"live.tiny", "blocked-call-zmq.python"} <= set(measurements())


def test_passes_are_combined_to_one_median():
    figure = {"name": "x-us", "unit": "us", "must": 2.0, "wanted": 1.0, "note": ""}

    cases = combine([{**figure, "samples": [1.0, 9.0]}, {**figure, "samples": [3.0]}])

    assert cases == [RunnerCase("x-us", 3.0, "us", 2.0, 1.5, 1.0, [1.0, 9.0, 3.0], "")]
    assert '"ratio": 1.5' in RunnerReport(cases, {}).json()


def test_a_tax_is_the_median_over_rounds_of_their_own_quotients():
    rounds = [
        {"stack_ms": 11.0, "engine_ms": 10.0, "gateway": 100.0},
        {"stack_ms": 21.0, "engine_ms": 20.0, "gateway": 300.0},
        {"stack_ms": 40.0, "engine_ms": 20.0, "gateway": 200.0},
    ]

    (case,) = combine([tax._figure("stream", 16, rounds)])

    assert case.name == "tax-stream-percent.16"
    assert case.value == pytest.approx(10.0)
    assert case.ratio == pytest.approx(10.0 / 8)
    assert "gateway 200" in case.note


def test_guests_are_written_as_they_are_uploaded():
    assert PROGRAMS["tiny"]()[:4] == b"\0asm"
    assert b"def main" in PROGRAMS["python"]()
