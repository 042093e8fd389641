"""The generic Python component: built once from the SDK, compiled once, then any Python source starts in milliseconds.

It is keyed by everything that goes into it (SDK sources, WIT, toolchain version), so a changed SDK gets a new one.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path

from pie_wire.errors import ErrorInfo, PieError, Unsupported, from_info

Progress = Callable[[str], None]

_TOOL = "componentize-py"
_KEEP = 2
_BUILD_SECONDS = 600


class BuildError(PieError):
    """A toolchain failed; the message has the end of its output."""

    code = "build_failed"


@dataclass(frozen=True, slots=True)
class PythonRuntime:
    """Where the generic component of one key lives under the Pie home."""

    home: Path
    key: str

    @classmethod
    def current(cls, home: Path) -> PythonRuntime:
        """The one that the installed SDK and toolchain make. Raises Unsupported without the toolchain."""
        try:
            tool = version(_TOOL)
        except PackageNotFoundError:
            raise Unsupported(f"{_TOOL} is missing: pip install 'pie-mq[bakery]'") from None
        return cls(home, _key(tool))

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


def prepare_python_runtime(home: Path, progress: Progress | None = None) -> Path:
    """The compiled generic component (`.cwasm`), built and compiled first if need be.

    The first time takes 20 to 60 seconds, a line of `progress` for each step; afterwards half a second (the runner's
    own compiler is asked whether its code is there). Processes that prepare at once wait for each other. Raises
    BuildError, Unsupported.
    """
    say = progress or _silent
    runtime = PythonRuntime.current(home)
    runtime.folder.mkdir(parents=True, exist_ok=True)
    with _locked(runtime.folder / "lock", say):
        if not runtime.wasm.exists():
            say("building the Python runtime (once; about 20 seconds)")
            _build(runtime)
            _forget_old(runtime)
        return _compile(runtime.wasm, runtime.code, say)


def _silent(_: str) -> None:
    pass


def sdk_folder() -> Path:
    """Where the installed SDK's files are."""
    return Path(str(files("pie_sdk")))


def _sources() -> list[Path]:
    sdk = sdk_folder()
    return [*sorted(sdk.glob("wit/*.wit")), *sorted(sdk.glob("python/inferlet/**/*.py"))]


def _key(tool: str) -> str:
    digest = hashlib.sha256(f"{_TOOL} {tool}\n".encode())
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
        _run(command, "building the Python runtime")
        scratch.replace(runtime.wasm)
    finally:
        scratch.unlink(missing_ok=True)


def _compile(wasm: Path, cache: Path, say: Progress) -> Path:
    """Run the runner's compiler, which says what it does as it does it."""
    command = [sys.executable, "-m", "pie_runner.wasm.compiler", str(wasm), str(cache)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        watch = threading.Timer(_BUILD_SECONDS, process.kill)
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


def _run(command: list[str], what: str) -> None:
    try:
        # Without its backtrace the tool's last words are the reason.
        quiet = {**os.environ, "RUST_BACKTRACE": "0"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=_BUILD_SECONDS, check=False, env=quiet)
    except subprocess.TimeoutExpired:
        raise BuildError(f"{what} took longer than {_BUILD_SECONDS} s.") from None
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-20:])
        raise BuildError(f"{what} failed with status {done.returncode}:\n{tail}")


def _forget_old(runtime: PythonRuntime) -> None:
    """Old components go; their compiled forms fall out of the code cache by themselves."""
    old = sorted(runtime.folder.glob("python-*.wasm"), key=lambda path: path.stat().st_mtime, reverse=True)[_KEEP:]
    for path in old:
        path.unlink(missing_ok=True)


@contextmanager
def _locked(path: Path, say: Progress) -> Generator[None]:
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another process that prepares the Python runtime")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
