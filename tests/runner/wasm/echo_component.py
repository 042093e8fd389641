"""Components made to measure: one that gets a value of a given type from its host and hands it back untouched."""

from __future__ import annotations

from pie_runner.wasm.types import (
    EnumOf,
    FlagsOf,
    ListOf,
    OptionOf,
    Prim,
    RecordOf,
    ResultOf,
    TupleOf,
    Type,
    VariantOf,
)

PACKAGE = "test:echo"
PADDING = 17
"""More than sixteen flat parameters travel through memory, laid out as a tuple: what `give` wrote, `take` can read."""


class _Writer:
    """Writes WIT types as definitions of a component type; named ones must be exported."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.count = 0

    def name(self) -> str:
        self.count += 1
        return f"$t{self.count}"

    def ref(self, type_: Type) -> str:
        match type_:
            case Prim(name):
                return name
            case ListOf(element):
                return self.define(f"(list {self.ref(element)})")
            case TupleOf(elements):
                return self.define(f"(tuple {' '.join(map(self.ref, elements))})")
            case OptionOf(payload):
                return self.define(f"(option {self.ref(payload)})")
            case ResultOf(ok, err):
                left = "" if ok is None else self.ref(ok)
                right = "" if err is None else f"(error {self.ref(err)})"
                return self.define(f"(result {left} {right})")
            case RecordOf(fields):
                inner = " ".join(f'(field "{name}" {self.ref(field)})' for name, field in fields)
                return self.export(self.define(f"(record {inner})"))
            case VariantOf(cases):
                inner = " ".join(f'(case "{name}" {"" if case is None else self.ref(case)})' for name, case in cases)
                return self.export(self.define(f"(variant {inner})"))
            case EnumOf(names):
                return self.export(self.define(f"(enum {' '.join(map(repr_, names))})"))
            case FlagsOf(names):
                return self.export(self.define(f"(flags {' '.join(map(repr_, names))})"))
            case _:
                raise TypeError(type_)

    def define(self, text: str) -> str:
        name = self.name()
        self.lines.append(f"(type {name} {text})")
        return name

    def export(self, name: str) -> str:
        public = self.name()
        self.lines.append(f'(export "n{self.count}" (type {public} (eq {name})))')
        return public


def repr_(name: str) -> str:
    return f'"{name}"'


def echo_component(type_: Type) -> str:
    """The component as text. `give` returns `tuple<type, u8 * PADDING>`; `take` gets the same as its parameters."""
    writer = _Writer()
    inner = writer.ref(type_)
    padding = " ".join(["u8"] * PADDING)
    params = " ".join(f'(param "p{i}" u8)' for i in range(PADDING))
    whole = writer.define(f"(tuple {inner} {padding})")
    return f"""
(component
  (import "{PACKAGE}/host@0.1.0" (instance $host
    {" ".join(writer.lines)}
    (export "give" (func (result {whole})))
    (export "take" (func (param "v" {inner}) {params}))))
  (core module $lib
    (memory (export "memory") 256)
    (global $top (mut i32) (i32.const 65536))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (local $at i32)
      (local.set $at (i32.and (i32.add (global.get $top) (i32.const 15)) (i32.const -16)))
      (global.set $top (i32.add (local.get $at) (local.get 3)))
      (local.get $at))
    (func (export "reset") (global.set $top (i32.const 65536))))
  (core instance $lib (instantiate $lib))
  (alias core export $lib "memory" (core memory $memory))
  (alias core export $lib "realloc" (core func $realloc))
  (alias export $host "give" (func $host_give))
  (alias export $host "take" (func $host_take))
  (core func $give (canon lower (func $host_give) (memory $memory) (realloc $realloc)))
  (core func $take (canon lower (func $host_take) (memory $memory) (realloc $realloc)))
  (core module $main
    (import "host" "give" (func $give (param i32)))
    (import "host" "take" (func $take (param i32)))
    (import "lib" "memory" (memory 1))
    (import "lib" "reset" (func $reset))
    (func (export "run") (param $text i32) (param $size i32) (result i32) (local $times i32)
      (local.set $times (local.get $size))
      (loop $again
        (call $reset)
        (call $give (i32.const 1024))
        (call $take (i32.const 1024))
        (local.set $times (i32.sub (local.get $times) (i32.const 1)))
        (br_if $again (i32.gt_s (local.get $times) (i32.const 0))))
      (i32.store8 (i32.const 512) (i32.const 0))
      (i32.store (i32.const 516) (i32.const 0))
      (i32.store (i32.const 520) (i32.const 0))
      (i32.const 512)))
  (core instance $main (instantiate $main
    (with "host" (instance (export "give" (func $give)) (export "take" (func $take))))
    (with "lib" (instance $lib))))
  (alias core export $main "run" (core func $run))
  (func (export "run") (param "input" string) (result (result string (error string)))
    (canon lift (core func $run) (memory $memory) (realloc $realloc))))
"""
