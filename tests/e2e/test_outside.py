"""What programs do outside of their sandbox, through a whole stack and as users ask for it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from pie_zmq.errors import ProgramError

sys.path.insert(0, str(Path(__file__).parents[1] / "runner"))

from e2e_stack import Stack, eventually
from web_server import Web, serving

PROGRAM = """
from inferlet import files, http, mcp

async def main(url="", tool="", note="", upload=""):
    if upload:
        async def pieces():
            for each in upload:
                yield each.encode() * 1_000_000
        text = await (await http.post(url, body=pieces())).text()
        return [len(text), text[:1], text[-1:]]
    if url:
        return await (await http.get(url)).text()
    if tool:
        result = await mcp.connect("house").call(tool, n=21)
        return [mcp.servers(), result["content"][0]["text"]]
    files.write("/scratch/x", note)
    files.append("/data/notes", note)
    return files.read_text("/data/notes")
"""
ASKS = "[capabilities]\nmcp = ['house']\nfilesystem = ['scratch', 'data']\n"
MANIFEST = f"[package]\nname = 'outsider'\nversion = '0.1.0'\n\n{ASKS}"


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "outsider.py"
    path.write_text(PROGRAM)
    return path


@pytest.fixture
def web() -> Any:
    with serving() as found:
        yield found


def test_a_user_allows_a_host_for_one_run(scripted: Stack, program: Path, web: Web):
    url = web.url("/none")
    refused = scripted.pie("run", str(program), "--", "--url", url)
    assert refused.returncode == 1
    assert f"--allow http=127.0.0.1:{web.port}" in refused.stderr
    assert web.seen == []

    allowed = scripted.pie("run", str(program), "--allow", f"http=127.0.0.1:{web.port}", "--", "--url", url)
    assert (allowed.returncode, allowed.stdout.strip()) == (0, "nothing here"), allowed.stderr


def test_a_program_streams_what_it_sends(scripted: Stack, program: Path, web: Web):
    done = scripted.pie(
        *("run", str(program), "--allow", f"http=127.0.0.1:{web.port}"),
        "--",
        "--url",
        web.url("/echo"),
        "--upload",
        "abc",
    )

    assert (done.returncode, done.stdout.strip()) == (0, '[3000000, "a", "c"]'), done.stderr
    assert web.seen[0].headers["transfer-encoding"] == "chunked"


def test_files_stay_and_scratch_goes(scripted: Stack, program: Path):
    for expected in ("a", "aa"):
        done = scripted.pie("run", str(program), "--allow", "fs", "--", "--note", "a")
        assert (done.returncode, done.stdout.strip()) == (0, expected), done.stderr

    left = [path for path in (scripted.home / "scratch").rglob("*") if path.is_file() and path.name != "lock"]
    eventually("scratch is empty", lambda: not [path for path in left if path.exists()])


def test_a_manifest_asks_and_pie_programs_shows_it(scripted: Stack, program: Path):
    (program.parent / "Pie.toml").write_text(MANIFEST)
    assert scripted.pie("install", str(program)).returncode == 0

    shown = next(line for line in scripted.pie("programs").stdout.splitlines() if "outsider" in line)
    assert "filesystem=scratch" in shown.replace("│", " ")
    refused = scripted.pie("run", "outsider", "--", "--note", "a")
    assert "policy file" in refused.stderr
    assert scripted.pie("run", "outsider", "--allow", "fs=data", "--", "--note", "a").returncode == 1
    assert scripted.pie("run", "outsider", "--allow", "fs", "--", "--note", "a").returncode == 0


def test_a_program_calls_a_tool_of_its_client(scripted: Stack, program: Path):
    async def house(method: str, params: dict[str, Any]) -> Any:
        return {"content": [{"type": "text", "text": str(2 * params["arguments"]["n"])}], "isError": False}

    with scripted.client() as client:
        with pytest.raises(ProgramError):
            client.run_file(program, {"tool": "double"}).result(30)
        client.register_mcp("house", handler=house)
        assert client.run_file(program, {"tool": "double"}).result(30) == [["house"], "42"]
