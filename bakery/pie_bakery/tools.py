"""Running the programs that toolchains are made of."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from pie_wire.errors import PieError, Unsupported

BUILD_SECONDS = 600
"""No build step is waited for longer."""

_TAIL_LINES = 60


class BuildError(PieError):
    """A toolchain failed; the message has the end of its output."""

    code = "build_failed"


def find_tool(name: str) -> str | None:
    """A program's path: beside the interpreter, where pip puts it, or on PATH."""
    beside = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return shutil.which(name, path=beside)


def wasm_tools() -> str:
    """The path of wasm-tools. Raises Unsupported without it."""
    found = find_tool("wasm-tools")
    if found is None:
        raise Unsupported("wasm-tools is missing: pip install 'pie-mq[bakery]'")
    return found


def run_tool(
    command: Sequence[str], what: str, *, cwd: Path | None = None, environment: Mapping[str, str] | None = None
) -> str:
    """What a program prints. Raises BuildError with the end of its output when it fails or takes too long."""
    # Without its backtrace a tool's last words are the reason.
    variables = {**os.environ, "RUST_BACKTRACE": "0", **(environment or {})}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False, cwd=cwd, env=variables
        )
    except subprocess.TimeoutExpired:
        raise BuildError(f"{what} took longer than {BUILD_SECONDS} s.") from None
    except OSError as exc:
        raise BuildError(f"{what} failed: {command[0]} cannot be run ({exc.strerror}).") from None
    if done.returncode != 0:
        tail = "\n".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-_TAIL_LINES:])
        raise BuildError(f"{what} failed with status {done.returncode}:\n{tail}")
    return done.stdout
