"""The first run of a component: who launches it is told that it is compiled, and only the first time."""

from __future__ import annotations

import os
from pathlib import Path

import wasmtime
from e2e_stack import Stack

COMPONENT = """(component (core module $m
  (memory (export "memory") 1) (data (i32.const 512) "{salt}")
  (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
  (func (export "run") (param i32 i32) (result i32)
    (i32.store (i32.const 4) (i32.const 16)) (i32.store (i32.const 8) (i32.const 1))
    (i32.store8 (i32.const 16) (i32.const 49)) (i32.const 0)))
  (core instance $i (instantiate $m))
  (alias core export $i "memory" (core memory $memory))
  (alias core export $i "realloc" (core func $realloc))
  (alias core export $i "run" (core func $run))
  (func (export "run") (param "input" string) (result (result string (error string)))
    (canon lift (core func $run) (memory $memory) (realloc $realloc))))"""


def test_the_first_run_says_that_it_compiles(scripted: Stack, tmp_path: Path):
    path = tmp_path / "one.wasm"
    path.write_bytes(wasmtime.wat2wasm(COMPONENT.format(salt=os.urandom(8).hex())))

    first = scripted.pie("run", str(path))
    assert (first.returncode, first.stdout.strip()) == (0, "1"), first.stderr
    assert "[compiling " in first.stderr

    again = scripted.pie("run", str(path))
    assert (again.stdout.strip(), again.stderr) == ("1", "")
