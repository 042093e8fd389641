"""The benchmark's guests, compiled: what each language costs beside the runner's own share."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from pie_wire.config import pie_home
from pie_wire.errors import Unavailable
from wasmtime import wat2wasm
from wasmtime.component import Component

from pie_runner.service import find_python_runtime
from pie_runner.wasm.cache import CodeCache
from pie_runner.wasm.compiler import compile_here
from pie_runner.wasm.engine import WasmEngine
from pie_runner.wasm.program import Program
from pie_runner.wasm.world import offered_world


@dataclass(frozen=True)
class Guest:
    """A program, and the text its `run` gets for that many calls without arguments and that many waits."""

    name: str
    program: Program
    text: Callable[[int, int], str]


def source(name: str) -> str:
    """The text of a guest."""
    return files("pie_runner.bench").joinpath("guests", name).read_text()


def tiny(engine: WasmEngine) -> Guest:
    """WebAssembly written by hand: no language runtime at all."""
    program = Program(engine, Component(engine.raw, source("tiny.wat")), offered_world())
    return Guest("tiny", program, lambda calls, waits: f"n{calls}" if calls else f"w{waits}")


def python(engine: WasmEngine) -> Guest:
    """Source run by the prepared component, as `pie run FILE.py` does.

    Raises:
        Unavailable: that component has not been prepared.
    """
    home = pie_home()
    wasm = find_python_runtime("", home)
    if wasm is None:
        raise Unavailable("the component that runs Python source is not prepared: run `pie runtime prepare`")
    cache = CodeCache(home / "code", engine.settings)
    path: Path = compile_here(wasm, cache, engine.settings)
    program = Program.load(engine, path, cache, offered_world())
    text = source("calls.py")

    def envelope(calls: int, waits: int) -> str:
        return json.dumps({"source": text, "filename": "calls.py", "input": {"calls": calls, "waits": waits}})

    return Guest("python", program, envelope)


GUESTS: dict[str, Callable[[WasmEngine], Guest]] = {"tiny": tiny, "python": python}

PROGRAMS: dict[str, Callable[[], bytes]] = {
    "tiny": lambda: bytes(wat2wasm(source("tiny.wat"))),
    "python": lambda: source("calls.py").encode(),
}
"""The guests as their authors would upload them."""
