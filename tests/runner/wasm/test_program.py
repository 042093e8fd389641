"""What is not run: malformed code, foreign imports, other types, no `run`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from pie_runner.wasm.cache import CodeCache
from pie_runner.wasm.compiler import compile_here
from pie_runner.wasm.engine import EngineSettings, WasmEngine
from pie_runner.wasm.program import Program
from pie_runner.wasm.types import read_imports
from pie_runner.wasm.world import offered_world, to_json, world_of
from pie_wire.errors import BadProgram

RUN = """
  (core module $m
    (memory (export "memory") 1)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
    (func (export "run") (param i32 i32) (result i32) (i32.const 512)))
  (core instance $i (instantiate $m))
  (alias core export $i "memory" (core memory $memory))
  (alias core export $i "realloc" (core func $realloc))
  (alias core export $i "run" (core func $run))
  (func (export "run") (param "input" string) (result (result string (error string)))
    (canon lift (core func $run) (memory $memory) (realloc $realloc)))
"""


@pytest.fixture
def compiled(tmp_path: Path) -> Callable[[str], Path]:
    def compile_(text: str) -> Path:
        wasm = tmp_path / "program.wasm"
        wasm.write_text(text)
        return compile_here(wasm, CodeCache(tmp_path / "code"), EngineSettings())

    return compile_


def test_a_component_that_wants_nothing(compiled: Callable[[str], Path]):
    assert compiled(f"(component {RUN})").exists()


@pytest.mark.parametrize("text", ["", "\0asm\1\0\0\0", "not wasm", "(module)"])
def test_malformed(compiled: Callable[[str], Path], text: str):
    with pytest.raises(BadProgram, match="not a component that can be compiled"):
        compiled(text)


@pytest.mark.parametrize(
    ("imports", "words"),
    [
        ('(import "other:host/thing@1.0.0" (instance))', "imports 'other:host/thing@1.0.0', which is not offered"),
        ('(import "wasi:http/types@0.2.0" (instance))', "imports 'wasi:http/types@0.2.0', which is not offered"),
        ('(import "wasi:io/poll@0.3.0" (instance))', "only version 0.2"),
        ('(import "f" (func))', "imports 'f', which is no interface"),
        (
            '(import "pie:inferlet/clocks@0.1.0" (instance (export "stop" (func))))',
            "imports pie:inferlet/clocks#stop, which this version does not offer",
        ),
        (
            '(import "pie:inferlet/clocks@0.1.0" (instance (export "wall-now" (func (result string)))))',
            r"imports pie:inferlet/clocks#wall-now with other types .* \(\) -> string instead of \(\) -> u64",
        ),
    ],
)
def test_imports_that_are_not_offered_are_named(compiled: Callable[[str], Path], imports: str, words: str):
    with pytest.raises(BadProgram, match=words):
        compiled(f"(component {imports} {RUN})")


@pytest.mark.parametrize(
    ("export", "words"),
    [
        (RUN.replace('(export "run") (param "input"', '(export "go") (param "input"'), "does not export `run`"),
        (
            RUN.replace('(param "input" string) (result (result string (error string)))', '(param "n" u64)')
            .replace('(export "run") (param i32 i32) (result i32) (i32.const 512)', '(export "run") (param i64)')
            .replace("(memory $memory) (realloc $realloc)", ""),
            r"exports `run` as \(u64\)",
        ),
    ],
)
def test_the_wrong_export(compiled: Callable[[str], Path], export: str, words: str):
    with pytest.raises(BadProgram, match=words):
        compiled(f"(component {export})")


def test_code_of_someone_else_is_not_loaded(compiled: Callable[[str], Path], engine: WasmEngine, tmp_path: Path):
    path = compiled(f"(component {RUN})")
    stranger = CodeCache(tmp_path / "elsewhere")

    with pytest.raises(BadProgram, match="not compiled by this installation"):
        Program.load(engine, path, stranger, offered_world())

    Program.load(engine, path, CodeCache(path.parent), offered_world())


def test_the_list_of_what_is_offered_is_the_world(engine: WasmEngine, python: Program):
    """After a change to the WIT: python -m pie_runner.wasm.world COMPONENT > .../world.json"""
    found = world_of(engine, python.component)

    assert json.loads(to_json(found)) == json.loads(to_json(offered_world()))


def test_types_read_off_a_component(engine: WasmEngine, python: Program):
    functions = read_imports(python.component, engine.raw).functions

    assert str(functions["pie:inferlet/context", "[method]context.flush"]) == (
        "(borrow<context.context>) -> own<futures.done>"
    )
