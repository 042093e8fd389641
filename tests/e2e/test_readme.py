"""The programs that README.md shows run as they are printed there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from e2e_stack import Stack

README = Path(__file__).parents[2] / "README.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def block(language: str, containing: str) -> str:
    [found] = [text for kind, text in BLOCK.findall(README.read_text()) if kind == language and containing in text]
    return found


def test_vote(stack: Stack, tmp_path: Path):
    (tmp_path / "vote.py").write_text(block("python", "ballot"))
    [line] = [line for line in block("sh", "vote.py").splitlines() if "vote.py" in line]
    match = re.fullmatch(r'pie run vote\.py -- --question "(.+)"', line)
    assert match, line

    done = stack.pie("run", "vote.py", "--", "--question", match[1], cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert len(outcome["votes"]) == 5
    assert outcome["winner"] in outcome["votes"]
    stack.check_quiet()


def test_your_own_code(stack: Stack, tmp_path: Path):
    (tmp_path / "client.py").write_text(block("python", "from pie_zmq"))

    done = subprocess.run(
        [sys.executable, "client.py"], cwd=tmp_path, env=stack.environment, capture_output=True, text=True, timeout=100
    )

    assert done.returncode == 0, done.stderr
    assert len(done.stdout) > 20


@pytest.mark.parametrize("language", ["python"])
def test_every_python_block_is_tested(language: str):
    assert len([kind for kind, _ in BLOCK.findall(README.read_text()) if kind == language]) == 2
