"""Guests that a toolchain must make first: built from their source by the bakery, in processes of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from importlib.resources import as_file, files
from pathlib import Path
from shutil import copytree

from pie_wire.errors import DeadlineExceeded, InternalError, Unsupported

_SECONDS = 900.0
MISSING = os.EX_UNAVAILABLE
"""How the bakery ends when a toolchain is missing."""


def component(name: str, folder: Path) -> Path:
    """The component of the guest whose sources are in `guests/NAME`: the one in `folder`, or made there now.

    Raises:
        Unsupported: its toolchain is missing; the message says how to get it. DeadlineExceeded, InternalError: it
        could not be built.
    """
    target = folder / f"{name}.wasm"
    if target.exists():
        return target
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        copy, made = Path(scratch) / name, Path(scratch) / target.name
        with as_file(files("pie_runner.bench").joinpath("guests", name)) as source:
            copytree(source, copy)
        _bake(copy, made)
        made.replace(target)
    return target


def _bake(source: Path, output: Path) -> None:
    command = [sys.executable, "-m", "pie_bakery", "build", str(source), "--output", str(output)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise DeadlineExceeded(f"building the guest {source.name} took more than {_SECONDS:.0f} s") from None
    if done.returncode == MISSING:
        raise Unsupported(done.stderr.strip().removeprefix("error: "))
    if done.returncode != 0:
        raise InternalError(f"the guest {source.name} could not be built: {done.stderr.strip()}")
