"""The benchmark of the runner measures what it says: its programs do what is asked, and its names are known."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from pie_bakery import prepare_python_runtime
from pie_bench import runner as reports
from pie_bench import tax
from pie_bench.runner import RunnerCase, RunnerReport, Skipped, combine
from pie_runner.bench import built, calls, launches, sampling
from pie_runner.bench.__main__ import main as command
from pie_runner.bench.__main__ import measurements
from pie_runner.bench.echo import EchoLink
from pie_runner.bench.local_engine import LocalEngine
from pie_runner.bench.programs import PROGRAMS, Work
from pie_runner.bench.stand import Stand, must_end_well, stand
from pie_wire.config import pie_home
from pie_wire.errors import InternalError, PieError, Unsupported
from pie_zmq import AsyncClient


@pytest.fixture
def bench() -> Iterator[Stand]:
    with stand() as made:
        yield made


@pytest.mark.parametrize("name", ["tiny", pytest.param("quickjs", marks=pytest.mark.slow)])
def test_a_program_waits_as_often_as_asked(bench: Stand, name: str):
    life = bench.launch(bench.guest(name), Work(waits=3))

    for _ in range(3):
        bench.drive()
        assert life.is_parked
        life.echo.answer()
    bench.drive()

    must_end_well(life)


def test_a_program_that_has_not_ended_is_an_error(bench: Stand):
    life = bench.launch(bench.guest("tiny"), Work(waits=1))
    bench.drive()

    with pytest.raises(InternalError, match="did not end"):
        must_end_well(life)


def test_the_echo_answers_each_program_once(bench: Stand):
    lives = [bench.launch(bench.guest("tiny"), Work(waits=2)) for _ in range(5)]
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
    monkeypatch.setattr(calls, "PROGRAMS", 3)
    monkeypatch.setattr(launches, "_LAUNCHES", 3)

    call = calls.host_call(bench, 2)
    bare = calls.bare_call(bench, 2)
    launch = launches.launch(bench, "tiny", 1)

    assert [(figure.name, len(figure.samples)) for figure in bare] == [("bare-call-us.tiny", 2)]
    assert [figure.name for figure in call] == ["host-call-us"]
    assert len(call[0].samples) == 2
    assert [figure.name for figure in launch] == ["launch-p50-ms.tiny", "launch-p99-ms.tiny"]
    assert all(figure.value > 0 for figure in call + bare + launch)
    names = {f"{case}.quickjs" for case in ("blocked-call", "blocked-call-zmq", "launch", "live", "custom-sampler")}
    assert {"live.tiny", "blocked-call-zmq.python", "custom-sampler.tiny"} | names <= set(measurements())


@pytest.mark.parametrize(
    "name", ["python", *(pytest.param(name, marks=pytest.mark.slow) for name in ("tiny", "quickjs"))]
)
def test_a_sampler_is_held_against_as_many_drawn_tokens(
    bench: Stand, name: str, monkeypatch: pytest.MonkeyPatch, missing: Callable[[str], None]
):
    prepare_python_runtime(pie_home())
    asked: list[str] = []
    answer = LocalEngine._slot
    monkeypatch.setattr(LocalEngine, "_slot", lambda *args: asked.append(args[1].kind) or answer(*args))
    monkeypatch.setattr(sampling, "_STEPS", 4)

    try:
        (figure,) = sampling.custom_sampler(bench, name, 1)
    except Unsupported as exc:
        missing(exc.message)
        return

    assert (figure.name, len(figure.samples)) == (f"custom-sampler-step-us.{name}", 1)
    assert asked == 2 * (["token"] * 4 + ["logits"] * 4)


def test_a_missing_toolchain_is_told_from_a_failed_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("HOME", str(tmp_path))

    with pytest.raises(Unsupported, match=r"^No Rust toolchain .* rustup target add"):
        built.component("sampler-rust", tmp_path)
    with pytest.raises(InternalError, match="there is nothing to build"):
        built._bake(tmp_path, tmp_path / "made.wasm")

    assert list(tmp_path.glob("*.wasm")) == []


def test_a_skipped_measurement_has_its_row_and_its_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    figure = {"name": "x-us", "unit": "us", "must": 2.0, "wanted": 1.0, "note": "", "samples": [1.0]}
    taken: list[str] = []

    def child(_module: str, *arguments: str, timeout: float) -> Any:
        taken.append(arguments[1])
        return (
            {"figures": [], "skipped": "no Rust"} if arguments[1] == "rusty" else {"figures": [figure], "skipped": ""}
        )

    monkeypatch.setattr(reports, "run_child", child)
    figures, skipped = reports.measure_alone(["rusty", "plain"], 2, 2, lambda _: None)
    RunnerReport(combine(figures), {}, skipped).show(as_json=False, output=None)

    assert taken == ["rusty", "plain", "plain"]
    assert skipped == [Skipped("rusty", "no Rust")]
    shown = capsys.readouterr().out
    assert "skipped" in shown
    assert "rusty was skipped: no Rust" in shown
    assert '"reason": "no Rust"' in RunnerReport(combine(figures), {}, skipped).json()


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


def test_a_guest_without_its_toolchain_has_a_status_of_its_own(monkeypatch: pytest.MonkeyPatch):
    def missing() -> bytes:
        raise Unsupported("no Node.js")

    monkeypatch.setitem(PROGRAMS, "quickjs", missing)

    answer = CliRunner().invoke(command, ["guest", "quickjs"])

    assert answer.exit_code == built.MISSING
    assert "no Node.js" in answer.output


@pytest.mark.parametrize(("status", "error"), [(built.MISSING, Unsupported), (1, InternalError)])
def test_a_thousand_launches_do_without_a_guest_that_cannot_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, error: type[PieError]
):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho no Node.js >&2; exit {status}\n")
    python.chmod(0o755)
    monkeypatch.setattr(tax.sys, "executable", str(python))

    async def install() -> None:
        await tax._install(AsyncClient("ipc:///nowhere"), "quickjs")

    with pytest.raises(error, match=r"no Node\.js"):
        asyncio.run(install())
