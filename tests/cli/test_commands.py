"""The commands that speak with a gateway, over a fake one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from pie_cli.main import pie
from pie_cli.stream import TextPrinter
from pie_wire.errors import OutOfMemory
from pie_wire.messages.common import Event
from pie_zmq.testing import FakePie, FakeProgram, FakeRun

Invoke = Callable[..., Result]


async def talk(run: FakeRun, given: Any) -> Any:
    await run.print("thinking\n")
    for piece in ("Hel", "lo"):
        await run.send(piece)
    return "Hello"


async def quiet(run: FakeRun, given: Any) -> Any:
    await run.print("a line")
    return given


async def fail(run: FakeRun, given: Any) -> Any:
    await run.send("half")
    raise OutOfMemory("the pool is too small")


async def chatty(run: FakeRun, given: Any) -> Any:
    turn = 0
    said: str | bytes = given["messages"][-1]["content"]
    while said:
        turn += 1
        for piece in (f"{turn}:", str(said)):
            await run.send(json.dumps({"delta": piece}))
        await run.send(json.dumps({"end": {}}))
        if not given["interactive"]:
            break
        said = await run.receive()
    return {"text": str(turn)}


async def binary(run: FakeRun, given: Any) -> Any:
    await run.send(b"\x00\xff")


async def shout(run: FakeRun, given: Any) -> Any:
    for _ in range(given["files"]):
        name, data = await run.receive_file()
        await run.send_file(name, data.upper())


async def escape(run: FakeRun, given: Any) -> Any:
    await run.send_file("../evil", b"x")


PROGRAMS: Mapping[str, FakeProgram] = {
    "talk": talk,
    "quiet": quiet,
    "fail": fail,
    "chat": chatty,
    "binary": binary,
    "shout": shout,
    "escape": escape,
}


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Run a `pie` command against a fake gateway of its own."""

    def call(*arguments: str, stdin: str = "") -> Result:
        fake = FakePie(PROGRAMS)
        monkeypatch.setattr("pie_zmq.async_client.ZmqTransport", lambda endpoint: fake)
        return CliRunner(env={"PIE_ENDPOINT": "ipc:///fake"}).invoke(pie, arguments, input=stdin)

    return call


def test_messages_stream_raw_and_the_return_value_is_not_said_twice(invoke: Invoke):
    result = invoke("run", "talk")

    assert (result.exit_code, result.stdout) == (0, "thinking\nHello\n")


def test_a_program_without_messages_shows_what_it_returned(invoke: Invoke):
    assert invoke("run", "quiet", "--", "--name", "Ada").stdout == 'a line\n{"name": "Ada"}\n'


def test_an_error_is_shown_with_its_code(invoke: Invoke):
    result = invoke("run", "fail")

    assert (result.exit_code, result.stdout) == (1, "half\n")
    assert "error: the pool is too small (out_of_memory)" in result.stderr


def test_what_a_launch_waits_for_is_told_beside_its_output(capsys: pytest.CaptureFixture[str]):
    TextPrinter().show(Event(1, "progress", "compiling chat@1.2.0"))

    assert capsys.readouterr() == ("", "[compiling chat@1.2.0]\n")


def test_json_events(invoke: Invoke):
    lines = [json.loads(line) for line in invoke("run", "--json", "talk").stdout.splitlines()]

    assert [line["kind"] for line in lines] == ["started", "stdout", "message", "message", "return"]
    assert lines[-1] == {"seq": 5, "kind": "return", "value": "Hello"}
    failed = [json.loads(line) for line in invoke("run", "--json", "fail").stdout.splitlines()]
    assert failed[-1]["error"]["code"] == "out_of_memory"


def test_binary_messages(invoke: Invoke):
    assert invoke("run", "binary").stdout_bytes == b"\x00\xff\n"
    assert json.loads(invoke("run", "binary", "--json").stdout.splitlines()[1])["base64"] == "AP8="


def test_input_from_stdin(invoke: Invoke):
    assert json.loads(invoke("run", "quiet", "--input", "-", stdin='{"a": 1}').stdout.splitlines()[1]) == {"a": 1}


def test_unknown_programs_and_files(invoke: Invoke):
    assert "no program nothing" in invoke("run", "nothing").stderr
    missing = invoke("run", "missing.py")
    assert (missing.exit_code, "no file missing.py" in missing.stderr) == (1, True)


def test_program_flags_before_the_dashes_are_explained(invoke: Invoke):
    result = invoke("run", "talk", "--name", "x")

    assert result.exit_code == 2
    assert "behind `--`" in result.stderr


def test_detached(invoke: Invoke):
    assert len(invoke("run", "-d", "talk").stdout.strip()) == 32


def test_chat_turns(invoke: Invoke):
    result = invoke("chat", stdin="one\ntwo\n\n")

    assert (result.exit_code, result.stdout) == (0, "1:one\n2:two\n")


def test_chat_once(invoke: Invoke):
    assert invoke("chat", "--once", "hi", "--system", "be brief").stdout == "1:hi\n"


def test_chat_with_a_program_that_is_none(invoke: Invoke):
    result = invoke("chat", "--program", "talk", "--once", "hi")

    assert (result.exit_code, "does not speak like a chat" in result.stderr) == (1, True)


def test_an_empty_conversation_launches_nothing(invoke: Invoke):
    assert invoke("chat", stdin="").exit_code == 0


def test_adapters_are_loaded_and_unloaded_by_name(invoke: Invoke):
    loaded = invoke("adapter", "load", "style", "some/folder")
    shown = invoke("adapter", "load", "style", "some/folder", "--json")
    missing = invoke("adapter", "unload", "nosuch")

    assert loaded.stdout.splitlines()[1].split()[:6] == ["style", "000000000000", "loaded", "8", "1.0", "MB"]
    assert json.loads(shown.stdout)[0]["adapters"][0]["rank"] == 8
    assert missing.exit_code == 1
    assert "no adapter is called nosuch" in missing.stderr


def test_files_both_ways(invoke: Invoke, tmp_path: Path):
    (tmp_path / "a.txt").write_text("hello")
    (tmp_path / "b.bin").write_bytes(b"x" * 600_000)
    into = tmp_path / "in"
    send = ["--send", str(tmp_path / "a.txt"), "--send", str(tmp_path / "b.bin")]

    result = invoke("run", "shout", *send, "--save-to", str(into), "--", "--files", "2")

    assert result.exit_code == 0, result.output
    assert (into / "a.txt").read_text() == "HELLO"
    assert (into / "b.bin").read_bytes() == b"X" * 600_000
    shown = invoke("run", "shout", *send[:2], "--", "--files", "1")
    assert "--save-to DIR keeps it" in shown.stderr
    lines = invoke("run", "--json", "shout", *send[:2], "--", "--files", "1").stdout.splitlines()
    row = next(row for row in map(json.loads, lines) if row["kind"] == "file")
    assert (row["name"], row["size"], row["base64"]) == ("a.txt", 5, "SEVMTE8=")


def test_a_file_that_would_leave_its_folder_is_not_kept(invoke: Invoke, tmp_path: Path):
    result = invoke("run", "escape", "--save-to", str(tmp_path / "in"))

    assert "not kept" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_empty_lists(invoke: Invoke):
    assert "no processes" in invoke("ps").stderr
    assert json.loads(invoke("ps", "--json").stdout) == []
    assert "pie install" in invoke("programs").stderr
    assert json.loads(invoke("pages", "--json").stdout) == {"engines": []}
    assert "no topic" in invoke("topics", "list").stderr
    assert "pie adapter load" in invoke("adapter", "list").stderr
    assert json.loads(invoke("topics", "dead", "jobs", "--json").stdout) == []
    assert "0 messages deleted" in invoke("topics", "purge", "jobs", "--waiting").stderr


def test_status_of_a_stack_elsewhere(invoke: Invoke):
    report = json.loads(invoke("status", "--json").stdout)

    assert (report["phase"], report["endpoint"], report["model"]) == ("ready", "ipc:///fake", "fake")
    assert "ipc:///fake" in invoke("status").stdout


def test_install(invoke: Invoke, tmp_path: Path):
    (tmp_path / "main.py").write_text("def main(): ...")
    (tmp_path / "Pie.toml").write_text('[package]\nname = "mine"\nversion = "1.2.3"\n')

    assert "installed mine@1.2.3" in invoke("install", str(tmp_path)).stderr


def test_an_interrupt_leaves_without_comment(invoke: Invoke, monkeypatch: pytest.MonkeyPatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pie_cli.ps.run_async", lambda coroutine: (coroutine.close(), interrupted()))

    result = invoke("ps")

    assert (result.exit_code, result.output.strip()) == (130, "")


def test_kill_needs_a_choice(invoke: Invoke):
    assert invoke("kill").exit_code == 2
    assert invoke("kill", "--all").exit_code == 0
    assert "not_found" in invoke("kill", "abc").stderr


def test_without_a_stack_every_command_says_how_to_get_one(tmp_path: Path):
    for command in (["run", "hello"], ["ps"], ["pages"], ["programs"], ["chat", "--once", "x"]):
        result = CliRunner(env={"PIE_HOME": str(tmp_path), "PIE_ENDPOINT": None}).invoke(pie, command)
        assert (result.exit_code, "start it with `pie up`" in result.stderr) == (1, True)
