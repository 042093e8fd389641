"""What a log line holds, and where it goes."""

from __future__ import annotations

import json
import subprocess
import sys

PROGRAM = """
import structlog
from pie_wire import logs
early = structlog.get_logger("made before the set-up")
logs.setup("engine", level={level!r}, form={form!r}, name="engine-1")
early.info("loaded", pages=3)
early.debug("detail")
try:
    1 / 0
except ZeroDivisionError:
    early.exception("failed")
"""


def run(level: str, form: str) -> subprocess.CompletedProcess[str]:
    program = PROGRAM.format(level=level, form=form)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)


def test_json_lines_to_stderr():
    result = run("info", "auto")

    lines = [json.loads(line) for line in result.stderr.splitlines()]
    assert [line["event"] for line in lines] == ["loaded", "failed"]
    assert (lines[0]["service"], lines[0]["name"], lines[0]["pages"], lines[0]["level"]) == (
        "engine",
        "engine-1",
        3,
        "info",
    )
    assert "ZeroDivisionError" in lines[1]["exception"]
    assert result.stdout == ""


def test_text_and_level():
    assert "detail" in run("debug", "text").stderr
    quiet = run("error", "text").stderr
    assert "loaded" not in quiet
    assert "ZeroDivisionError" in quiet
