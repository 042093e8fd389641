"""The scripts behind make, run against stand-ins for pie, python and pip that write down what they are asked."""

from __future__ import annotations

import os
import platform
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

FAKE_PIE = """#!/usr/bin/env bash
echo "$*" >>"$CALLS"
case "$1" in
    status) exit "${STATUS:-3}" ;;
    up) exit "${UP:-0}" ;;
    run) [ -z "${HANG:-}" ] || sleep 30; echo answer; exit "${RUN:-0}" ;;
    down) exit "${DOWN:-0}" ;;
esac
"""


@pytest.fixture
def tree(tmp_path: Path, root: Path) -> Path:
    """A checkout of the scripts alone, with an environment of stand-ins."""
    shutil.copytree(root / "scripts", tmp_path / "scripts")
    shutil.copytree(root / "constraints", tmp_path / "constraints")
    shutil.copy(root / "pyproject.toml", tmp_path)
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    return tmp_path


def stand_in(tree: Path, name: str, text: str) -> None:
    path = tree / "venv" / "bin" / name
    path.write_text(text)
    path.chmod(0o755)


def environment(tree: Path, **settings: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "VENV": "venv", "CALLS": str(tree / "calls")} | settings


def calls(tree: Path) -> list[str]:
    path = tree / "calls"
    return path.read_text().splitlines() if path.exists() else []


def run_once(tree: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    stand_in(tree, "pie", FAKE_PIE)
    return subprocess.run(
        [tree / "scripts" / "run_once"], env=environment(tree, **settings), capture_output=True, text=True, timeout=30
    )


def test_a_run_stops_what_it_started(tree: Path):
    done = run_once(tree, PROMPT='it\'s $HOME; "quoted"')
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "answer"
    assert calls(tree)[-2:] == ['run text-completion -- --prompt it\'s $HOME; "quoted"', "down"]


def test_a_stack_that_was_up_stays_up(tree: Path):
    run_once(tree, STATUS="0")
    assert [call for call in calls(tree) if call.split()[0] in {"up", "down"}] == []


@pytest.mark.parametrize(("broken", "status"), [({"RUN": "5"}, 5), ({"UP": "4"}, 4), ({"DOWN": "1"}, 1)])
def test_a_failure_shows_in_the_status_after_everything_is_stopped(tree: Path, broken: dict[str, str], status: int):
    assert run_once(tree, **broken).returncode == status
    assert calls(tree)[-1] == "down"


def test_interrupting_a_run_stops_the_stack(tree: Path):
    stand_in(tree, "pie", FAKE_PIE)
    process = subprocess.Popen(
        [tree / "scripts" / "run_once"],
        env=environment(tree, HANG="1"),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 10
    while not any(call.startswith("run ") for call in calls(tree)):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(10) == 130
    assert calls(tree)[-1] == "down"


@pytest.mark.skipif(
    (platform.system(), platform.machine()) != ("Linux", "x86_64"), reason="only there are torch's plain builds CUDA's"
)
def test_a_cuda_build_is_never_taken_unasked(tree: Path):
    stand_in(tree, "python", '#!/usr/bin/env bash\n[[ "$2" == *ensurepip* ]]\n')
    stand_in(tree, "pip", '#!/usr/bin/env bash\necho "$*" >>"$CALLS"\nexit 1\n')
    command = [tree / "scripts" / "make_venv"]
    index = "http://index.example/cpu"
    done = subprocess.run(
        command, env=environment(tree, PIE_TORCH_INDEX=index), capture_output=True, text=True, timeout=30
    )
    assert done.returncode != 0
    assert [call.split()[-1].endswith("+cpu") for call in calls(tree)] == [True, True]
    assert [index in call for call in calls(tree)] == [False, True]
    assert "PIE_TORCH=" in done.stderr

    (tree / "calls").unlink()
    subprocess.run(command, env=environment(tree, PIE_TORCH="torch==9 --pre"), capture_output=True, timeout=30)
    assert [call.split()[-2:] for call in calls(tree)] == [["torch==9", "--pre"]]


def test_a_complete_environment_is_left_alone(tree: Path):
    stand_in(tree, "python", '#!/usr/bin/env bash\n[[ "$2" == *ensurepip* || "$2" == *metadata* ]]\n')
    stand_in(tree, "pip", '#!/usr/bin/env bash\necho "$*" >>"$CALLS"\n')
    for _ in range(2):
        subprocess.run([tree / "scripts" / "make_venv"], env=environment(tree), check=True, timeout=30)
    assert len(calls(tree)) == 1
    (tree / "pyproject.toml").write_text("changed")
    subprocess.run([tree / "scripts" / "make_venv"], env=environment(tree), check=True, timeout=30)
    assert len(calls(tree)) == 2
