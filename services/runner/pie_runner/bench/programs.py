"""The benchmark's guests, compiled: what each language costs beside the runner's own share."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path

from pie_wire.config import pie_home
from pie_wire.errors import Unavailable
from wasmtime import wat2wasm
from wasmtime.component import Component

from pie_runner.bench.built import component
from pie_runner.service import find_python_runtime
from pie_runner.wasm.cache import CodeCache
from pie_runner.wasm.compiler import Compiler
from pie_runner.wasm.engine import WasmEngine
from pie_runner.wasm.program import Program
from pie_runner.wasm.world import offered_world


@dataclass(frozen=True)
class Work:
    """What a life of the plain guests does: so many calls without arguments, then so many waits."""

    calls: int = 0
    waits: int = 0


@dataclass(frozen=True)
class Sampling:
    """What a life of the sampling guests does: tokens, drawn from resident logits (`custom`) or by the engine."""

    steps: int
    custom: bool


@dataclass(frozen=True)
class Guest:
    """A program, and the text that its `run` gets for what it is to do."""

    name: str
    program: Program
    text: Callable[[Work | Sampling], str]


Maker = Callable[[WasmEngine, Path], Guest]
"""Makes a guest; components that have to be built are kept in the folder."""


def source(name: str) -> str:
    """The text of a guest."""
    return files("pie_runner.bench").joinpath("guests", name).read_text()


def tiny(engine: WasmEngine, _folder: Path) -> Guest:
    """WebAssembly written by hand: no language runtime at all."""
    program = Program(engine, Component(engine.raw, source("tiny.wat")), offered_world())

    def letter(work: Work | Sampling) -> str:
        if not isinstance(work, Work):
            raise TypeError("the tiny guest draws no tokens")
        return f"n{work.calls}" if work.calls else f"w{work.waits}"

    return Guest("tiny", program, letter)


def python(file: str) -> Maker:
    """Source run by the prepared component, as `pie run FILE.py` does.

    The maker raises Unavailable when that component has not been prepared.
    """

    def make(engine: WasmEngine, _folder: Path) -> Guest:
        home = pie_home()
        wasm = find_python_runtime("", home)
        if wasm is None:
            raise Unavailable("the component that runs Python source is not prepared: run `pie runtime prepare`")
        text = source(file)

        def envelope(work: Work | Sampling) -> str:
            return json.dumps({"source": text, "filename": file, "input": asdict(work)})

        return Guest(file, _compiled(engine, wasm, home / "code"), envelope)

    return make


def built(name: str) -> Maker:
    """A component that the bakery makes of a folder of sources.

    The maker raises Unsupported when the toolchain is missing.
    """

    def make(engine: WasmEngine, folder: Path) -> Guest:
        program = _compiled(engine, component(name, folder), folder / "code")
        return Guest(name, program, lambda work: json.dumps(asdict(work)))

    return make


def _compiled(engine: WasmEngine, wasm: Path, code: Path) -> Program:
    """Compiled by another process: the memory that it takes would be in this one's figures."""
    cache = CodeCache(code, engine.settings)
    path = asyncio.run(Compiler(cache).compile(wasm))
    return Program.load(engine, path, cache, offered_world())


GUESTS: dict[str, Maker] = {"tiny": tiny, "quickjs": built("quickjs"), "python": python("calls.py")}
"""The plain ones."""

SAMPLERS: dict[str, Maker] = {
    "tiny": built("sampler-rust"),
    "quickjs": built("sampler-quickjs"),
    "python": python("sampler.py"),
}
"""The sampling ones."""


def _component_now(name: str) -> bytes:
    with tempfile.TemporaryDirectory(prefix="pie-bench-") as folder:
        return component(name, Path(folder)).read_bytes()


PROGRAMS: dict[str, Callable[[], bytes]] = {
    "tiny": lambda: bytes(wat2wasm(source("tiny.wat"))),
    "quickjs": lambda: _component_now("quickjs"),
    "python": lambda: source("calls.py").encode(),
}
"""Guests as their authors would upload them, for whom a whole stack launches them. May raise Unsupported."""
