"""Components that attack: core modules written here, made into components with `wasm-tools`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

from pie_bakery.tools import run_tool, wasm_tools

_PACKAGE = "cm32p2|pie:inferlet"

HEAP = """
  (memory $memory (export "cm32p2_memory") 4)
  (global $top (mut i32) (i32.const 131072))
  (func (export "cm32p2_realloc") (param i32 i32 i32) (param $size i32) (result i32)
    (local $at i32) (local $end i32)
    (local.set $at (i32.and (i32.add (global.get $top) (i32.const 7)) (i32.const -8)))
    (local.set $end (i32.add (local.get $at) (local.get $size)))
    (if (i32.gt_u (local.get $end) (i32.mul (memory.size) (i32.const 65536)))
      (then (drop (memory.grow (i32.div_u (local.get $size) (i32.const 65536))))
            (drop (memory.grow (i32.const 1)))))
    (global.set $top (local.get $end))
    (local.get $at))
"""
ANSWER = """
    (i32.store8 (i32.const 512) (i32.const 0))
    (i32.store (i32.const 516) (i32.const 528))
    (i32.store (i32.const 520) (i32.const 4))
    (i32.store (i32.const 528) (i32.const 0x6c6c756e))
    (i32.const 512)
"""
"""How `run` returns null."""
IMPORTS = f"""
  (import "{_PACKAGE}/clocks@0.1" "sleep" (func $sleep (param i64) (result i32)))
  (import "{_PACKAGE}/clocks@0.1" "monotonic-now" (func $now (result i64)))
  (import "{_PACKAGE}/futures@0.1" "wait-any" (func $wait (param i32 i32 i32)))
  (import "{_PACKAGE}/futures@0.1" "[method]done.id" (func $id (param i32) (result i32)))
  (import "{_PACKAGE}/futures@0.1" "done_drop" (func $drop_done (param i32)))
  (import "{_PACKAGE}/session@0.1" "receive" (func $receive (result i32)))
  (import "{_PACKAGE}/log@0.1" "stdout" (func $print (param i32 i32)))
  (import "{_PACKAGE}/session@0.1" "send-bytes" (func $send_bytes (param i32 i32 i32 i32)))
  (import "{_PACKAGE}/random@0.1" "get-bytes" (func $random (param i32 i32)))
"""


def component(core: str, wit: str = "", world: str = "inferlet") -> bytes:
    """The component of a core module in text form, of the inferlet world or one that `wit` defines."""
    wit = wit or str(files("pie_sdk").joinpath("wit"))
    with TemporaryDirectory() as folder:
        paths = [str(Path(folder) / name) for name in ("core.wat", "embedded.wasm", "component.wasm")]
        Path(paths[0]).write_text(core)
        for command in (
            ["embed", "--world", world, wit, paths[0], "-o", paths[1]],
            ["new", paths[1], "-o", paths[2]],
        ):
            run_tool([wasm_tools(), "component", *command], "making a hostile component")
        return Path(paths[2]).read_bytes()


def attack(body: str, helpers: str = "") -> bytes:
    """A program whose `run` is this body; what it imports is `IMPORTS`."""
    return component(
        f"(module {IMPORTS} {HEAP} {helpers}"
        f'(func (export "cm32p2||run") (param i32 i32) (result i32) (local $a i32) {body} {ANSWER}))'
    )


@cache
def dummy() -> str:
    """A core module that imports every function of the world, with the types of the canonical ABI."""
    command = ["component", "embed", "--dummy", "--world", "inferlet", str(files("pie_sdk").joinpath("wit")), "-t"]
    return run_tool([wasm_tools(), *command], "reading the world")


def imports() -> list[tuple[str, str, Sequence[str], Sequence[str]]]:
    """(module, name, parameters, results) of every function of the world."""
    found: list[tuple[str, str, Sequence[str], Sequence[str]]] = []
    pattern = (
        r'\(import "([^"]+)" "([^"]+)" \(func \(;\d+;\) \(type \d+\)(?: \(param ([^)]*)\))?(?: \(result ([^)]*)\))?'
    )
    for module, name, params, results in re.findall(pattern, dummy()):
        found.append((module, name, params.split(), results.split()))
    return found
