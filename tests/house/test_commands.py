"""Every command that `pie --help` lists can be loaded, explains itself, and comes up quickly."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import click
import pytest
from click.testing import CliRunner
from pie_cli.main import ENTRIES, pie


@pytest.mark.parametrize("name", sorted(ENTRIES))
def test_a_listed_command_loads_and_explains_itself(name: str):
    entry = ENTRIES[name]
    command = getattr(import_module(entry.module), entry.attribute)
    assert isinstance(command, click.Command)
    shown = CliRunner().invoke(pie, [name, "--help"], catch_exceptions=False)
    assert shown.exit_code == 0
    assert command.help, f"pie {name} says nothing about itself"


def test_the_list_of_commands_loads_nothing_heavy():
    heavy = ("torch", "transformers", "wasmtime", "redis", "starlette", "numpy")
    code = f"import sys, pie_cli.main; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
