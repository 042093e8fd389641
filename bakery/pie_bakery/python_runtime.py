"""The generic Python component: built once from the SDK, compiled once, then any Python source starts in milliseconds.

It is keyed by everything that makes it (SDK sources, WIT, toolchain version, what is done to its image), so a changed
SDK gets a new one.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pie_wire.errors import ErrorInfo, Unsupported, from_info

from pie_bakery import python_image
from pie_bakery.folders import locked, sdk_folder
from pie_bakery.tools import BUILD_SECONDS, BuildError, run_tool

Progress = Callable[[str], None]

_TOOL = "componentize-py"
_KEEP = 2


@dataclass(frozen=True, slots=True)
class PythonRuntime:
    """Where the generic component of one key lives under the Pie home."""

    home: Path
    key: str

    @classmethod
    def current(cls, home: Path) -> PythonRuntime:
        """The one that the installed SDK and toolchain make. Raises Unsupported without the toolchain."""
        return cls(home, _key(require_componentize()))

    @property
    def folder(self) -> Path:
        """Shared by all keys."""
        return self.home / "runtime"

    @property
    def code(self) -> Path:
        """The runner's cache of compiled code."""
        return self.home / "code"

    @property
    def wasm(self) -> Path:
        """The component."""
        return self.folder / f"python-{self.key}.wasm"


def require_componentize() -> str:
    """The version of componentize-py. Raises Unsupported without it."""
    try:
        return version(_TOOL)
    except PackageNotFoundError:
        raise Unsupported(f"{_TOOL} is missing: pip install 'pie-mq[bakery]'") from None


def prepare_python_runtime(home: Path, progress: Progress | None = None) -> Path:
    """The compiled generic component (`.cwasm`), built and compiled first if need be.

    The first time takes 20 to 60 seconds, a line of `progress` for each step; afterwards half a second (the runner's
    own compiler is asked whether its code is there). Processes that prepare at once wait for each other. Raises
    BuildError, Unsupported.
    """
    say = progress or _silent
    runtime = PythonRuntime.current(home)
    runtime.folder.mkdir(parents=True, exist_ok=True)
    with locked(runtime.folder / "lock", lambda: say("waiting for another process that prepares the Python runtime")):
        if not runtime.wasm.exists():
            say("building the Python runtime (once; about 20 seconds)")
            _build(runtime)
            _forget_old(runtime)
        return _compile(runtime.wasm, runtime.code, say)


def _silent(_: str) -> None:
    pass


def _sources() -> list[Path]:
    sdk = sdk_folder()
    return [*sorted(sdk.glob("wit/*.wit")), *sorted(sdk.glob("python/inferlet/**/*.py"))]


def _key(tool: str) -> str:
    digest = hashlib.sha256(f"{_TOOL} {tool}\n".encode() + Path(python_image.__file__).read_bytes())
    for path in _sources():
        digest.update(f"{path.relative_to(sdk_folder())}\0".encode())
        digest.update(path.read_bytes())
        digest.update(b"\0")
    return digest.hexdigest()[:16]


def _build(runtime: PythonRuntime) -> None:
    sdk = sdk_folder()
    scratch = runtime.wasm.with_suffix(f".{os.getpid()}.part")
    command = [
        *(sys.executable, "-c", "import sys, componentize_py; sys.exit(componentize_py.script())"),
        *("-d", str(sdk / "wit"), "-w", "inferlet", "componentize", "inferlet.component"),
        *("-p", str(sdk / "python"), "-o", str(scratch)),
    ]
    try:
        run_tool(command, "building the Python runtime")
        python_image.make_immortal(scratch)
        scratch.replace(runtime.wasm)
    finally:
        scratch.unlink(missing_ok=True)


def _compile(wasm: Path, cache: Path, say: Progress) -> Path:
    """Run the runner's compiler, which says what it does as it does it."""
    command = [sys.executable, "-m", "pie_runner.wasm.compiler", str(wasm), str(cache)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        watch = threading.Timer(BUILD_SECONDS, process.kill)
        watch.start()
        try:
            for line in process.stdout or ():
                message = json.loads(line)
                if "path" in message:
                    return Path(message["path"])
                if "error" in message:
                    raise from_info(ErrorInfo(**message["error"]))
                say(message["progress"])
            tail = (process.stderr.read() if process.stderr else "").strip().splitlines()[-20:]
        finally:
            watch.cancel()
    raise BuildError("The compiler ended without an answer; is pie-mq[runner] installed?\n" + "\n".join(tail))


def _forget_old(runtime: PythonRuntime) -> None:
    """Old components go; their compiled forms fall out of the code cache by themselves."""
    old = sorted(runtime.folder.glob("python-*.wasm"), key=lambda path: path.stat().st_mtime, reverse=True)[_KEEP:]
    for path in old:
        path.unlink(missing_ok=True)
