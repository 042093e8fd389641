"""A program that holds a resource of every kind and misuses the handle of one."""

from __future__ import annotations

import re
from functools import cache

from costs import imported, name_of
from hostile import ANSWER, component, imports
from panics import chosen, data_of_all, given, held, made_of_all, place, response
from pie_runner.wasm.world import offered_world

WAYS = ("dropped twice", "used after its drop", "of another kind", "dropped as another kind", "made up", "none")
_FUNCTIONS = {name_of(module, function): (params, results) for module, function, params, results in imports()}


@cache
def kinds() -> list[str]:
    """Every kind of resource in the world, as `interface.name`."""
    found = {kind for types in offered_world().values() for kind in re.findall(r"(?:own|borrow)<([^>]+)>", types)}
    return sorted(found)


def _method(kind: str) -> str:
    """A function that takes a handle of that kind first, before anything else can be wrong with its arguments."""
    interface, _, resource = kind.partition(".")
    named = [name for name in _FUNCTIONS if name.startswith(f"{interface}/{resource}.") and not name.endswith(".new")]
    takes = f"(borrow<{kind}>"
    offered = {name_of(interface, function): types for (interface, function), types in offered_world().items()}
    return next(name for name in named if offered[name].startswith(takes))


def _call(kind: str, handle: str) -> str:
    """A method of that kind, on this handle."""
    name = _method(kind)
    params, results = _FUNCTIONS[name]
    interface, _, function = name.partition("/")
    own = held(kind.partition(".")[2])
    call = f"(call ${name} {given(interface, function, list(params), list(results)).replace(own, handle, 1)})"
    return f"(drop {call})" if results else call


def _misuse(kind: str, way: str) -> str:
    interface, _, resource = kind.partition(".")
    own = held(resource)
    other = held("done" if resource == "model" else "model")
    drop = f"(call ${interface}/{resource}_drop {{}})".format
    return {
        "dropped twice": drop(own) + drop(own),
        "used after its drop": drop(own) + _call(kind, own),
        "of another kind": _call(kind, other),
        "dropped as another kind": drop(other),
        "made up": _call(kind, "(i32.const 12345)"),
        "none": _call(kind, "(i32.const 0)"),
    }[way]


def misusing(port: int) -> bytes:
    """Its input is a string of a number: of a kind, and of one in `WAYS` times how many kinds there are. HTTP
    is asked at this port, where a server must answer."""
    data = place(port)
    arms = [f") {_misuse(kind, way)} (return)" for way in WAYS for kind in kinds()]
    steps, holders = made_of_all()
    return component(f"""(module {imported(imports())}
  (memory $memory (export "cm32p2_memory") 4)
  (global $top (mut i32) (i32.const 65536))
  (global $response (mut i32) (i32.const 0))
  {holders} {data} {data_of_all()}
  (func (export "cm32p2_realloc") (param i32 i32 i32) (param $size i32) (result i32) (local $at i32)
    (local.set $at (i32.and (i32.add (global.get $top) (i32.const 7)) (i32.const -8)))
    (global.set $top (i32.add (local.get $at) (local.get $size)))
    (local.get $at))
  {chosen(arms)}
  (func (export "cm32p2||run") (param $text i32) (param $size i32) (result i32) (local $which i32)
    (local.set $which (call $digits (i32.add (local.get $text) (i32.const 1))))
    {steps}
    {response()}
    (call $log/stdout (i32.const 8192) (i32.const 1))
    (call $call (local.get $which))
    {ANSWER}))""")
