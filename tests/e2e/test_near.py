"""Programs placed where a snapshot has its KV."""

from __future__ import annotations

from pathlib import Path

from e2e_stack import Stack

PROGRAM = """
from inferlet import Context, Model

async def main(save=""):
    if save:
        Context().append([1, 2, 3]).save(save)
        return "saved"
    found = Context.open(Model.load(), "intro")
    return found.tokens
"""


def test_a_program_starts_near_a_snapshot_that_there_is(scripted: Stack, tmp_path: Path):
    program = tmp_path / "keeper.py"
    program.write_text(PROGRAM)
    missing = scripted.pie("run", "--near", "intro", str(program))
    assert missing.returncode == 1
    assert "no snapshot 'intro' to be near to" in missing.stderr

    assert scripted.pie("run", str(program), "--", "--save", "intro").returncode == 0
    opened = scripted.pie("run", "--near", "intro", str(program))

    assert (opened.returncode, opened.stdout.strip()) == (0, "[1, 2, 3]"), opened.stderr
    with scripted.client() as client:
        assert client.run_file(program, near="intro").result(20) == [1, 2, 3]
