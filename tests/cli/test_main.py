"""The command itself: quick, complete, and helpful."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner
from pie_cli.main import ENTRIES, pie

HEAVY = {"rich", "zmq", "asyncio", "pie_wire", "pie_zmq", "redis", "torch", "transformers", "wasmtime", "numpy"}


def modules_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_help_imports_nothing_heavy():
    assert not HEAVY & modules_after("from pie_cli.main import pie\npie.get_help(__import__('click').Context(pie))")


@pytest.mark.parametrize(
    "module", ["up", "run", "chat", "ps", "pages", "programs", "status", "logs", "doctor", "model_store"]
)
def test_no_command_imports_what_belongs_to_a_service(module: str):
    services = {"torch", "transformers", "wasmtime", "redis", "pie_engine", "pie_runner", "pie_kvstore", "pie_gateway"}

    assert not services & modules_after(f"import pie_cli.{module}")


@pytest.mark.parametrize("name", list(ENTRIES))
def test_every_command_exists_and_has_help(name: str):
    command = pie.get_command(click.Context(pie), name)

    assert command is not None
    assert command.help


def test_help_lists_every_command():
    output = CliRunner().invoke(pie, ["--help"]).output

    assert all(name in output for name in ENTRIES)


def test_a_typing_error_gets_a_hint():
    result = CliRunner().invoke(pie, ["staus"])

    assert result.exit_code == 2
    assert "pie status" in result.output


def test_completion_knows_the_commands():
    complete = ShellComplete(pie, {}, "pie", "_PIE_COMPLETE")

    assert [item.value for item in complete.get_completions([], "st")] == ["status"]
    assert "--detach" in [item.value for item in complete.get_completions(["up"], "--d")]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str):
    assert "_PIE_COMPLETE" in CliRunner().invoke(pie, ["completion", shell]).output
