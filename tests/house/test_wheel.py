"""The product as a user gets it: the wheel in an environment of its own, far from the checkout, runs a program."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

HELLO = """
from inferlet import session


def main():
    session.send("hello from a file")
"""


@dataclass(frozen=True)
class Elsewhere:
    """An environment that has our wheel, and a user's folder and home beside it."""

    folder: Path

    @property
    def bin(self) -> Path:
        return self.folder / "venv" / "bin"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PATH": f"{self.bin}:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(self.folder / "home"),
            "PIE_HOME": str(self.folder / "pie"),
            "LANG": "C.UTF-8",
        }

    def run(self, *command: str, limit: float = 300, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command, cwd=self.folder / "home", env=self.environment, capture_output=True, text=True, timeout=limit
        )
        if check:
            assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
        return done

    def processes(self) -> list[str]:
        """Command lines of the processes that live in this environment."""
        mark = f"PIE_HOME={self.folder / 'pie'}".encode()
        found: list[str] = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:
                continue  # It ended, or belongs to someone else.
        return found


@pytest.fixture(scope="module")
def elsewhere(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Elsewhere]:
    place = Elsewhere(tmp_path_factory.mktemp("elsewhere"))
    (place.folder / "home").mkdir()
    dist = place.folder / "dist"
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(dist)], cwd=root, check=True, timeout=120
    )
    venv = place.folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True, timeout=120)
    (wheel,) = dist.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "--python", str(place.bin / "python"), "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, str(wheel)], check=True, timeout=120)
    # Third-party packages are borrowed from this environment: a path in a .pth file brings its packages but not its
    # own .pth files, so the editable install of the checkout stays invisible.
    site = place.run("python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").stdout.strip()
    borrowed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    Path(site, "borrowed.pth").write_text("".join(f"{path}\n" for path in sorted(borrowed)))
    yield place
    place.run("pie", "down", check=False)


def test_our_packages_come_from_the_wheel(elsewhere: Elsewhere, packages: dict[str, Path]):
    code = f"import importlib, json; print(json.dumps([importlib.import_module(n).__file__ for n in {list(packages)}]))"
    files = json.loads(elsewhere.run("python", "-c", code).stdout)
    assert [file for file in files if not file.startswith(str(elsewhere.folder))] == []


def test_a_program_runs_from_the_wheel(elsewhere: Elsewhere, smollm2: Path):
    (elsewhere.folder / "home" / "hello.py").write_text(textwrap.dedent(HELLO).lstrip())
    elsewhere.run("pie", "model", "pull", f"path:{smollm2}", "--name", "smollm2")
    elsewhere.run("pie", "runtime", "prepare", limit=300)

    elsewhere.run("pie", "up", "--detach", "--http-port", "0", "--model", "smollm2", limit=180)
    said = elsewhere.run("pie", "run", "hello.py", limit=120)
    state = elsewhere.run("pie", "status", "--json")
    elsewhere.run("pie", "down", limit=60)

    assert "hello from a file" in said.stdout
    assert json.loads(state.stdout)
    deadline = time.monotonic() + 5  # The interpreter of the supervisor may still be winding up.
    while elsewhere.processes() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert elsewhere.processes() == []


def test_the_command_knows_its_version(elsewhere: Elsewhere):
    assert "0.1.0" in elsewhere.run("pie", "--version").stdout
    assert not (elsewhere.folder / "home" / ".local").exists()
