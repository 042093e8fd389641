"""Programs as Wasm fibers. Components are compiled in a process of their own; Python source runs in a prepared one."""

from __future__ import annotations

import asyncio
import codecs
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import msgspec
import structlog
from pie_wire.errors import BadProgram, InternalError, PieError, Unavailable, to_error
from pie_wire.messages.common import EventKind, ProgramRef

from pie_runner.code_objects import CodeObjects
from pie_runner.engines import Offload
from pie_runner.process import Process
from pie_runner.programs import Outcome
from pie_runner.turns import Turns
from pie_runner.wasm.cache import CodeCache, sha256_of
from pie_runner.wasm.compiler import Compiler
from pie_runner.wasm.driver import Driver
from pie_runner.wasm.fiber import Fiber, Limits
from pie_runner.wasm.program import Program
from pie_runner.wasm.world import offered_world

MAX_LOADED = 64
"""Compiled programs kept in memory; the least recently started go first."""
MAX_SOURCE_BYTES = 8 << 20
PYTHON = "python"

log = structlog.get_logger("pie.programs")

Decoder = codecs.IncrementalDecoder


@dataclass(eq=False)
class Launch:
    """One program between being taken on and its end."""

    owner: WasmPrograms
    process: Process
    envelope: Callable[[Program], str]
    """What `run` gets."""
    on_running: Callable[[], None]
    on_exit: Callable[[Outcome], None]
    fiber: Fiber | None = None
    killed: bool = False
    decoders: dict[str, Decoder] = field(default_factory=dict[str, Decoder])

    def kill(self, reason: PieError) -> None:
        self.killed = True
        if self.fiber is not None:
            self.owner.driver.kill(self.fiber, reason)

    def ended(self, outcome: Outcome) -> None:
        """Its fiber has ended; each forgets the other, so that both are freed now and not by the garbage collector."""
        self.fiber = None
        self.on_exit(outcome)


@dataclass(eq=False)
class Preparation:
    """A program that is not in memory yet, and who waits for it."""

    wasm: Path
    launches: list[Launch]
    lines: dict[str, Callable[[], None]] = field(default_factory=dict[str, "Callable[[], None]"])
    """By tenant in whose line it is, how to take it out of there: it is prepared in the turn that comes first."""
    compiles: bool = False
    done: bool = False

    def add(self, launch: Launch) -> None:
        self.launches.append(launch)
        if self.compiles:
            self._say(launch)

    def compiling(self) -> None:
        """It has to be compiled first, which takes seconds: tell those who wait."""
        if not self.compiles:
            self.compiles = True
            for launch in self.launches:
                self._say(launch)

    @staticmethod
    def _say(launch: Launch) -> None:
        process = launch.process
        what = "the runtime of Python programs" if process.ref.kind == "python" else process.title
        process.tell_progress(f"compiling {what}")


class WasmPrograms:
    """The real ProgramHost."""

    def __init__(
        self,
        driver: Driver,
        code: CodeCache,
        *,
        look_up: Offload,
        compiling: Offload,
        runtime: Callable[[], Path | None],
        artifact_path: Callable[[str], Path],
        memory_bytes: int,
    ) -> None:
        """`runtime` finds the generic Python component. `look_up` runs what takes milliseconds, `compiling` what takes
        seconds: programs that are compiled already do not wait for those that are not. Each has one thread, on which
        tenants take turns. `memory_bytes`: what an instance that compiles source may have."""
        self.driver = driver
        self._code = code
        self._look_up = Turns(look_up, 1)
        self._compiling = Turns(compiling, 1)
        self._runtime = runtime
        self._artifact_path = artifact_path
        self._code_objects = CodeObjects(driver, memory_bytes)
        self._loaded: OrderedDict[str, Program] = OrderedDict()
        self._preparing: dict[str, Preparation] = {}

    def start(
        self,
        process: Process,
        artifact: Callable[[], bytes],
        on_running: Callable[[], None],
        on_exit: Callable[[Outcome], None],
    ) -> Launch:
        ref = process.ref
        if ref.kind == "python":
            envelope = partial(self._envelope, process, _source(artifact()))
        else:
            envelope = partial(_input, process)
        launch = Launch(self, process, envelope, on_running, on_exit)
        key = PYTHON if ref.kind == "python" else ref.sha256
        program = self._loaded.get(key)
        if program is not None:
            self._loaded.move_to_end(key)
            self._spawn(launch, program)
        elif key in self._preparing:
            self._preparing[key].add(launch)
            self._prepare(key, self._preparing[key], process.scope.tenant)
        else:
            self._prepare(key, Preparation(self._find(ref), [launch]), process.scope.tenant)
        return launch

    def warm_up(self) -> None:
        """Load the Python component, if it is there, before the first program needs it."""
        wasm = self._runtime()
        if wasm is None:
            log.warning("the component that runs Python source is not prepared: run `python -m pie_bakery runtime`")
        elif PYTHON not in self._preparing:
            self._prepare(PYTHON, Preparation(wasm, []), "")

    @property
    def python_ready(self) -> bool:
        """Python source starts at once."""
        return PYTHON in self._loaded

    def _envelope(self, process: Process, source: str, program: Program) -> str:
        """What the generic component takes: the input is spliced in as it is, so that it is parsed only once."""
        key = process.ref.sha256, process.filename
        code = self._code_objects.find(key, source, program, process.scope.tenant, process)
        head = msgspec.json.encode({"source": source, "filename": process.filename}).decode()
        return f'{head[:-1]},"code":{code},"input":{process.input or "null"}}}'

    def _find(self, ref: ProgramRef) -> Path:
        if ref.kind != "python":
            return self._artifact_path(ref.sha256)
        wasm = self._runtime()
        if wasm is None:
            raise Unavailable(
                "the component that runs Python source is not prepared: run `python -m pie_bakery runtime`"
            )
        return wasm

    def _prepare(self, key: str, preparation: Preparation, tenant: str) -> None:
        """In this tenant's line, though it may be in another one's already: nobody waits behind what others launch."""
        self._preparing[key] = preparation
        if tenant not in preparation.lines:
            then = partial(self._looked_up, key, preparation, tenant)
            preparation.lines[tenant] = self._look_up.add(tenant, lambda: self._load(preparation.wasm), then)

    def _load(self, wasm: Path) -> Program | None:
        """On a worker thread: what is compiled already."""
        compiled = self._code.find(sha256_of(wasm))
        return None if compiled is None else self._loaded_from(compiled)

    def _compile(self, wasm: Path) -> Program:
        """On a worker thread."""
        return self._loaded_from(asyncio.run(_compiled(self._code, wasm)))

    def _loaded_from(self, compiled: Path) -> Program:
        return Program.load(self.driver.host.engine, compiled, self._code, offered_world())

    def _looked_up(
        self, key: str, preparation: Preparation, tenant: str, result: object, error: Exception | None
    ) -> None:
        if preparation.done:
            return
        # While it is compiled for another tenant, what is found may be half of it.
        if result is not None or (error is not None and not preparation.compiles):
            self._prepared(key, preparation, result, error)
            return
        preparation.compiling()
        then = partial(self._prepared, key, preparation)
        preparation.lines[tenant] = self._compiling.add(tenant, lambda: self._compile(preparation.wasm), then)

    def _prepared(self, key: str, preparation: Preparation, result: object, error: Exception | None) -> None:
        if preparation.done:
            return
        preparation.done = True
        del self._preparing[key]
        for leave in preparation.lines.values():
            leave()
        waiting, preparation.launches = preparation.launches, []
        if isinstance(result, Program):
            self._loaded[key] = result
            while len(self._loaded) > MAX_LOADED:
                self._loaded.popitem(last=False)
            for launch in waiting:
                if not launch.killed:
                    self._spawn(launch, result)
            return
        failure = to_error(error or InternalError("a program was not prepared, and nobody knows why"))
        log.warning("a program cannot be prepared", program=key, code=failure.code, reason=failure.message)
        for launch in waiting:
            if not launch.killed:
                launch.on_exit(failure)

    def _spawn(self, launch: Launch, program: Program) -> None:
        launch.on_running()
        limits = launch.process.usage.limits
        launch.fiber = self.driver.spawn(
            program,
            launch.envelope(program),
            data=launch.process,
            on_exit=lambda _, outcome: launch.ended(outcome),
            limits=Limits(memory_bytes=limits.memory, cpu_seconds=limits.cpu_seconds, where=limits.where),
            on_output=lambda _, stream, data: _forward(launch, stream, data),
        )
        self._code_objects.compile_wanted()


async def _compiled(cache: CodeCache, wasm: Path) -> Path:
    return await Compiler(cache).compile(wasm)


def _source(data: bytes) -> str:
    if len(data) > MAX_SOURCE_BYTES:
        raise BadProgram(f"a Python program has at most {MAX_SOURCE_BYTES} bytes of source, not {len(data)}")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise BadProgram(f"the Python source is not UTF-8: {exc}") from exc


def _input(process: Process, _program: Program) -> str:
    return process.input


def _forward(launch: Launch, stream: str, data: bytes) -> None:
    decoder = launch.decoders.get(stream)
    if decoder is None:
        decoder = launch.decoders[stream] = codecs.getincrementaldecoder("utf-8")("replace")
    kind: EventKind = "stderr" if stream == "stderr" else "stdout"
    launch.process.write_output(kind, decoder.decode(data))
