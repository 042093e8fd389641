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

    @property
    def record(self) -> Path:
        """Remembers where the compiled form is."""
        return self.folder / f"python-{self.key}.json"

    def compiled(self) -> Path | None:
        """The compiled form, if it was made and is still there."""
        try:
            path = Path(json.loads(self.record.read_text())["compiled"])
        except (FileNotFoundError, KeyError, ValueError):
            return None
        return path if path.exists() else None


def prepare_python_runtime(home: Path, progress: Progress | None = None) -> Path:
    """The compiled generic component (`.cwasm`), built and compiled first if need be.

    The first time takes 20 to 60 seconds, a line of `progress` for each step; afterwards milliseconds. Processes that
    prepare at once wait for each other. Raises BuildError, Unsupported.
    """
    say = progress or _silent
    runtime = PythonRuntime.current(home)
    found = runtime.compiled()
    if found is not None:
        return found
    runtime.folder.mkdir(parents=True, exist_ok=True)
    with _locked(runtime.folder / "lock", say):
        found = runtime.compiled()
        if found is None:
            if not runtime.wasm.exists():
                say("building the Python runtime (once; about 20 seconds)")
                _build(runtime)
            say("compiling the Python runtime (once; about 15 seconds)")
            found = _compile(runtime.wasm, runtime.code, say)
            _write(runtime.record, json.dumps({"compiled": str(found)}))
            _forget_old(runtime)
            say("the Python runtime is ready")
    return found


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
    output = _run([sys.executable, "-m", "pie_runner.wasm.compiler", str(wasm), str(cache)], "compiling")
    for line in output.splitlines():
        message = json.loads(line)
        if "path" in message:
            return Path(message["path"])
        if "error" in message:
            raise from_info(ErrorInfo(**message["error"]))
        say(message["progress"])
    raise BuildError("The compiler ended without an answer; is pie-mq[runner] installed?")


def _run(command: list[str], what: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_BUILD_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise BuildError(f"{what} took longer than {_BUILD_SECONDS} s.") from None
    if done.returncode != 0 and '"error"' not in done.stdout:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-20:])
        raise BuildError(f"{what} failed with status {done.returncode}:\n{tail}")
    return done.stdout


def _write(path: Path, text: str) -> None:
    scratch = path.with_suffix(f".{os.getpid()}.part")
    scratch.write_text(text)
    scratch.replace(path)


def _forget_old(runtime: PythonRuntime) -> None:
    """Old components go; their compiled forms fall out of the code cache by themselves."""
    old = sorted(runtime.folder.glob("python-*.wasm"), key=lambda path: path.stat().st_mtime, reverse=True)[_KEEP:]
    for path in old:
        path.with_suffix(".json").unlink(missing_ok=True)
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
