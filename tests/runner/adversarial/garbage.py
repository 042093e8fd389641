"""A program that calls functions of the world with values made up from a seed."""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence

from costs import imported, name_of, segment
from hostile import ANSWER, HEAP, component, imports
from panics import OF_CONTEXT, chosen, data_of_all, made, made_of_all, place, records, setup, texts

_TABLE = 4096
"""Where the addresses and sizes of texts that mean something lie."""
_TEXTS = 16


def _first(name: str, module_name: str) -> str:
    """What a function is mostly given first: a handle of its kind, or where a record lies. Most others trap at once."""
    function = name.partition("/")[2]
    if name in records():
        return f"(i32.const {records()[name]})"
    if name in OF_CONTEXT or name in ("forward/execute", "forward/compute"):
        return "(global.get $context)"
    if re.match(r"\[(static|constructor)\]", module_name):
        return "" if name == "model/model.load" else "(global.get $model)"
    if "." in function or function.endswith("_drop"):
        resource = function.partition(".")[0].removesuffix("_drop")
        return f"(global.get ${resource})"
    of_model = ("adapters/available", "chat/render", "decoders/format", "decoders/call-grammar")
    return "(global.get $model)" if name in of_model or name.startswith("scheduling/") else ""


def _values(name: str, module_name: str, params: Sequence[str], results: Sequence[str]) -> str:
    wanted, values = list(params), list[str]()
    if wanted and (first := _first(name, module_name)):
        values.append(f"(call $held {first})")
        wanted = wanted[1:]
    answers = [] if results or not wanted else ["(i32.and (call $i32) (i32.const 0x1fff8))"]
    wanted = wanted[: len(wanted) - len(answers)]
    while wanted:
        if wanted[:2] == ["i32", "i32"]:
            values.append("(call $pair)")
            wanted = wanted[2:]
        else:
            values.append(f"(call ${wanted.pop(0)})")
    return " ".join(values + answers)


def caller(port: int) -> bytes:
    """Its input is a string of three numbers, `"SEED COUNT FUNCTION"`: of the functions in the order of `imports`, or a
    random one each time if there is none of that number. It first loads the model and makes a context, so that there is
    something to reach, and with odd seeds a resource of every other kind too (HTTP is asked at `port`); then it writes
    random words to its memory and calls, COUNT times.
    """
    every = imports()
    arms: list[str] = []
    for module, function, params, results in every:
        name = name_of(module, function)
        call = f"(call ${name} {_values(name, function, params, results)})"
        arms.append(f") {f'(drop {call})' if results else call} (return)")
    data = place(port)
    known = [*texts().values()]
    pairs = b"".join(struct.pack("<II", *known[at % len(known)]) for at in range(_TEXTS))
    steps, holders = made_of_all()
    return component(f"""(module {imported(every)} {HEAP}
  {data} {data_of_all()} {segment(_TABLE, pairs)}
  (global $state (mut i64) (i64.const 1))
  (global $at (mut i32) (i32.const 0))
  (global $response (mut i32) (i32.const 0))
  {holders}
  (func $held (param $handle i32) (result i32)
    (if (result i32) (i64.eqz (i64.and (call $next) (i64.const 31))) (then (call $i32)) (else (local.get $handle))))
  (func $pair (result i32 i32) (local $at i32)
    (local.set $at (i32.add (i32.const {_TABLE})
      (i32.mul (i32.const 8) (i32.wrap_i64 (i64.and (call $next) (i64.const {_TEXTS - 1}))))))
    (if (result i32 i32) (i64.eqz (i64.and (call $next) (i64.const 1)))
      (then (call $i32) (call $i32))
      (else (i32.load (local.get $at)) (i32.load (i32.add (local.get $at) (i32.const 4))))))
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
  {chosen(arms)}
  (func (export "cm32p2||run") (param $text i32) (param $size i32) (result i32)
    (local $count i32) (local $only i32) (local $end i32) (local $seed i32)
    (global.set $at (i32.add (local.get $text) (i32.const 1)))
    (local.set $end (i32.add (local.get $text) (local.get $size)))
    (local.set $seed (call $number (local.get $end)))
    (global.set $state (i64.add (i64.mul (i64.extend_i32_u (local.get $seed))
      (i64.const 0x9e3779b97f4a7c15)) (i64.const 1)))
    (local.set $count (call $number (local.get $end)))
    (local.set $only (call $number (local.get $end)))
    (if (i32.and (local.get $seed) (i32.const 1))
      (then {steps})
      (else {" ".join(made(name, call) for name, call in setup() if name in ("model", "context"))}))
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
