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


def _first_handle(name: str) -> str:
    """Which of the two handles that the caller holds a function takes first, or empty. Most others trap at once."""
    if name.startswith(("[method]context.", "[static]run.")) or name == "execute":
        return "context"
    if name.startswith(("[method]model.", "[static]context.", "[constructor]conversation")) or name == "render":
        return "model"
    return ""


def caller() -> bytes:
    """A program that calls functions of the world with values made up from a seed.

    Its input is a string of three numbers, `"SEED COUNT FUNCTION"`: of the functions in the order of `imports`, or a
    random one each time if there is none of that number. It first loads the model and makes a context, so that there is
    something to reach; then it writes random words to its memory and calls, COUNT times.
    """
    every = imports()
    lines: list[str] = []
    for i, (module, name, params, results) in enumerate(every):
        takes = f"(param {' '.join(params)})" if params else ""
        gives = f"(result {' '.join(results)})" if results else ""
        lines.append(f'(import "{module}" "{name}" (func $import{i} {takes} {gives}))')
    numbers = {name: i for i, (_, name, _, _) in enumerate(every)}
    arms: list[str] = []
    for i, (_, name, params, results) in enumerate(every):
        values = [f"(call ${kind})" for kind in params]
        if values and (holder := _first_handle(name)):
            values[0] = f"(call $held (global.get ${holder}))"
        if len(values) > 1 and not results:
            values[-1] = "(i32.and (call $i32) (i32.const 0x1fff8))"
        given = " ".join(values)
        call = f"(call $import{i} {given})"
        arms.append(f") {f'(drop {call})' if results else call} (return)")
    blocks = "(block " * len(arms)
    table = " ".join(str(i) for i in range(len(arms)))
    dispatch = f"{blocks} (br_table {table} (local.get $which)) {' '.join(arms)}"
    return component(f"""(module {" ".join(lines)} {HEAP}
  (global $state (mut i64) (i64.const 1))
  (global $at (mut i32) (i32.const 0))
  (global $model (mut i32) (i32.const 0))
  (global $context (mut i32) (i32.const 0))
  (func $held (param $handle i32) (result i32)
    (if (result i32) (i64.eqz (i64.and (call $next) (i64.const 31))) (then (call $i32)) (else (local.get $handle))))
  (func $next (result i64)
    (global.set $state (i64.xor (global.get $state) (i64.shl (global.get $state) (i64.const 13))))
    (global.set $state (i64.xor (global.get $state) (i64.shr_u (global.get $state) (i64.const 7))))
    (global.set $state (i64.xor (global.get $state) (i64.shl (global.get $state) (i64.const 17))))
    (global.get $state))
  (func $i32 (result i32) (local $r i64) (local $kind i32)
    (local.set $r (i64.shr_u (call $next) (i64.const 8)))
    (local.set $kind (i32.wrap_i64 (i64.and (call $next) (i64.const 63))))
    (if (i32.lt_u (local.get $kind) (i32.const 50))
      (then (return (i32.wrap_i64 (i64.and (local.get $r) (i64.const 3))))))
    (if (i32.lt_u (local.get $kind) (i32.const 60))
      (then (return (i32.wrap_i64 (i64.and (local.get $r) (i64.const 0x1fff8))))))
    (if (i32.lt_u (local.get $kind) (i32.const 63))
      (then (return (i32.wrap_i64 (i64.and (local.get $r) (i64.const 1023))))))
    (i32.wrap_i64 (local.get $r)))
  (func $i64 (result i64)
    (if (result i64) (i64.eqz (i64.and (call $next) (i64.const 3)))
      (then (call $next)) (else (i64.extend_i32_u (call $i32)))))
  (func $f32 (result f32) (f32.reinterpret_i32 (call $i32)))
  (func $f64 (result f64) (f64.reinterpret_i64 (call $i64)))
  (func $scatter (local $left i32)
    (local.set $left (i32.const 12))
    (loop $more
      (i32.store (i32.wrap_i64 (i64.and (call $next) (i64.const 0x1fff8))) (call $i32))
      (local.set $left (i32.sub (local.get $left) (i32.const 1)))
      (br_if $more (local.get $left))))
  (func $number (param $end i32) (result i32) (local $value i32) (local $digit i32)
    (block $done (loop $more
      (br_if $done (i32.ge_u (global.get $at) (local.get $end)))
      (local.set $digit (i32.sub (i32.load8_u (global.get $at)) (i32.const 48)))
      (global.set $at (i32.add (global.get $at) (i32.const 1)))
      (br_if $done (i32.gt_u (local.get $digit) (i32.const 9)))
      (local.set $value (i32.add (i32.mul (local.get $value) (i32.const 10)) (local.get $digit)))
      (br $more)))
    (local.get $value))
  (func $call (param $which i32) {dispatch})
  (func (export "cm32p2||run") (param $text i32) (param $size i32) (result i32)
    (local $count i32) (local $only i32) (local $end i32)
    (global.set $at (i32.add (local.get $text) (i32.const 1)))
    (local.set $end (i32.add (local.get $text) (local.get $size)))
    (global.set $state (i64.add (i64.mul (i64.extend_i32_u (call $number (local.get $end)))
      (i64.const 0x9e3779b97f4a7c15)) (i64.const 1)))
    (local.set $count (call $number (local.get $end)))
    (local.set $only (call $number (local.get $end)))
    (call $import{numbers["[static]model.load"]} (i32.const 1024) (i32.const 0) (i32.const 1040))
    (global.set $model (i32.load (i32.const 1044)))
    (call $import{numbers["[static]context.create"]} (global.get $model) (i32.const 1040))
    (global.set $context (i32.load (i32.const 1044)))
    (block $done (loop $more
      (br_if $done (i32.eqz (local.get $count)))
      (global.set $top (i32.const 131072))
      (call $scatter)
      (if (i32.ge_u (local.get $only) (i32.const {len(every)}))
        (then (call $call (i32.wrap_i64 (i64.rem_u (call $next) (i64.const {len(every)})))))
        (else (call $call (local.get $only))))
      (local.set $count (i32.sub (local.get $count) (i32.const 1)))
      (br $more)))
    {ANSWER}))""")
