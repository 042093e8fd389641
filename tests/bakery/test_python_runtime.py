"""The generic component is made once and remade when what goes into it changes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pie_bakery import python_runtime
from pie_bakery.python_runtime import BuildError, PythonRuntime, prepare_python_runtime
from pie_wire.config import pie_home
from pie_wire.errors import Unsupported


@pytest.fixture
def sdk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the SDK that a test may change."""
    folder = tmp_path / "sdk"
    for path in [*python_runtime.sdk_folder().glob("wit/*"), *python_runtime.sdk_folder().glob("python/inferlet/*.py")]:
        target = folder / path.relative_to(python_runtime.sdk_folder())
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    monkeypatch.setattr(python_runtime, "sdk_folder", lambda: folder)
    return folder


@pytest.mark.parametrize("changed", ["wit/world.wit", "python/inferlet/context.py"])
def test_the_key_follows_the_sources(sdk: Path, tmp_path: Path, changed: str):
    before = PythonRuntime.current(tmp_path).key
    assert PythonRuntime.current(tmp_path).key == before

    with (sdk / changed).open("a") as file:
        file.write("\n")

    assert PythonRuntime.current(tmp_path).key != before


def test_a_second_time_builds_nothing():
    first = prepare_python_runtime(pie_home())
    said: list[str] = []

    assert prepare_python_runtime(pie_home(), said.append) == first
    assert said == []


def test_the_command_prints_the_path():
    done = subprocess.run([sys.executable, "-m", "pie_bakery", "runtime"], capture_output=True, text=True, check=True)

    assert Path(done.stdout.strip()).exists()


@pytest.mark.slow
def test_a_broken_sdk_is_told_with_the_tools_words(sdk: Path, tmp_path: Path):
    (sdk / "python/inferlet/component.py").write_text("import no_such_module\n")

    with pytest.raises(BuildError, match="no_such_module"):
        prepare_python_runtime(tmp_path / "home")

    assert list((tmp_path / "home" / "runtime").glob("*.part")) == []


def test_without_the_toolchain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(python_runtime, "_TOOL", "componentize-nothing")

    with pytest.raises(Unsupported, match="pie-mq\\[bakery\\]"):
        prepare_python_runtime(tmp_path)
