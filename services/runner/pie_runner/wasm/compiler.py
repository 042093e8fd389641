"""wasm to machine code, in a process of its own: compilation takes seconds and must not stop the fibers.

`python -m pie_runner.wasm.compiler WASM DIRECTORY [LIMIT]` compiles into the cache at DIRECTORY, where LIMIT bytes
are kept, and prints JSON lines:
`{"progress": "..."}` any number of times, then `{"path": "..."}` or `{"error": {...}}`.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from pie_wire.errors import BadProgram, DeadlineExceeded, ErrorInfo, InternalError, PieError, from_info, to_error
from wasmtime import WasmtimeError, wat2wasm
from wasmtime.component import Component

from pie_runner.wasm.cache import CodeCache, sha256_of
from pie_runner.wasm.engine import EngineSettings, WasmEngine
from pie_runner.wasm.memories import with_one_memory
from pie_runner.wasm.program import check_imports
from pie_runner.wasm.types import read_imports
from pie_runner.wasm.world import offered_world

Progress = Callable[[str], None]

_STOP_GRACE = 2.0


def _silent(_: str) -> None:
    pass


class Compiler:
    """Compiles at most `workers` programs at once, each in a process; asks for one program share its result."""

    def __init__(self, cache: CodeCache, workers: int = 1, timeout: float = 300.0) -> None:
        self._cache = cache
        self._slots = asyncio.Semaphore(workers)
        self._timeout = timeout
        self._running: dict[str, asyncio.Task[Path]] = {}

    async def compile(self, wasm: Path, on_progress: Progress = _silent) -> Path:
        """The compiled form of a component, from the cache or made now.

        Raises BadProgram (malformed, or wanting imports that are not offered), DeadlineExceeded. Cancelling one of
        several callers leaves the others their result.
        """
        digest = await asyncio.to_thread(sha256_of, wasm)
        found = await asyncio.to_thread(self._cache.find, digest)
        if found is not None:
            return found
        task = self._running.get(digest)
        if task is None:
            task = asyncio.create_task(self._work(wasm, on_progress), name=f"compile-{digest[:12]}")
            self._running[digest] = task
            task.add_done_callback(lambda _: self._running.pop(digest, None))
        return await asyncio.shield(task)

    async def close(self) -> None:
        """End what is being compiled."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _work(self, wasm: Path, on_progress: Progress) -> Path:
        async with self._slots:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "pie_runner.wasm.compiler",
                str(wasm),
                str(self._cache.directory),
                str(self._cache.limit_bytes),
                stdout=asyncio.subprocess.PIPE,
                limit=1 << 20,
            )
            try:
                async with asyncio.timeout(self._timeout):
                    return await _follow(process, on_progress)
            except TimeoutError:
                raise DeadlineExceeded(f"Compiling took longer than {self._timeout:.0f} s and was stopped.") from None
            finally:
                await _end(process)


async def _follow(process: asyncio.subprocess.Process, on_progress: Progress) -> Path:
    if process.stdout is None:
        raise InternalError("The compiler has no output.")
    answer: Path | PieError | None = None
    async for line in process.stdout:
        message = json.loads(line)
        if "progress" in message:
            on_progress(message["progress"])
        elif "path" in message:
            answer = Path(message["path"])
        else:
            answer = from_info(ErrorInfo(**message["error"]))
    status = await process.wait()
    if isinstance(answer, Path):
        return answer
    raise answer or InternalError(f"The compiler ended with status {status} and without an answer.")


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
        try:
            async with asyncio.timeout(_STOP_GRACE):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


def compile_here(wasm: Path, cache: CodeCache, settings: EngineSettings, on_progress: Progress = _silent) -> Path:
    """Compile in this process, or find it compiled. Raises BadProgram."""
    digest = sha256_of(wasm)
    found = cache.find(digest)
    if found is not None:
        return found
    on_progress(f"compiling {wasm.name} ({wasm.stat().st_size / 1e6:.1f} MB)")
    engine = WasmEngine(settings)
    try:
        component = Component(engine.raw, with_one_memory(_binary(wasm.read_bytes())))
    except WasmtimeError as exc:
        raise BadProgram(f"This is not a component that can be compiled: {_first_lines(str(exc))}") from exc
    check_imports(read_imports(component, engine.raw), offered_world())
    scratch = cache.scratch(digest)
    try:
        with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(component.serialize())
        return cache.put(digest, scratch)
    finally:
        scratch.unlink(missing_ok=True)


def _binary(data: bytes) -> bytes:
    """Of a component that may be given as text."""
    return data if data.startswith(b"\0asm") else bytes(wat2wasm(data))


def _first_lines(text: str) -> str:
    return " ".join(line.strip() for line in text.splitlines()[:6] if line.strip())


def _main(arguments: list[str]) -> int:
    wasm, directory, *limit = arguments

    def say(message: dict[str, object]) -> None:
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()

    # Fibers of the runner go first on a busy machine.
    os.nice(5)
    settings = EngineSettings()
    try:
        cache = CodeCache(Path(directory), settings, *map(int, limit))
        path = compile_here(Path(wasm), cache, settings, lambda text: say({"progress": text}))
    except Exception as exc:  # noqa: BLE001 - the parent gets every failure as its answer
        info = to_error(exc).info()
        say({"error": {name: getattr(info, name) for name in ("code", "message", "retryable", "scope", "cause")}})
        return 1
    say({"path": str(path)})
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
