"""However many memories a component has, all that it holds is within the limit of one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lab import Lab
from pie_runner.wasm.cache import CodeCache
from pie_runner.wasm.compiler import compile_here
from pie_runner.wasm.engine import WasmEngine
from pie_runner.wasm.fiber import Limits
from pie_runner.wasm.memories import with_one_memory
from pie_runner.wasm.program import Program
from pie_runner.wasm.world import offered_world
from pie_wire.errors import BadProgram, LimitExceeded
from wasmtime import wat2wasm

PAGES = 16
LIMIT = Limits(memory_bytes=PAGES << 16)

GREEDY = """
  (core module $other (memory (export "memory") {other})
    (func (export "grow") (drop (memory.grow (i32.const 1)))) (func (export "pages") (result i32) (memory.size)))
  (core instance $other (instantiate $other))
  {more}
  (core module $main (import "other" "grow" (func $grow)) (import "other" "pages" (func $pages (result i32)))
    (memory (export "memory") {main})
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
    (func (export "run") (param i32 i32) (result i32) (local $tries i32)
      (loop $again
        (call $grow) (drop (memory.grow (i32.const 1)))
        (local.set $tries (i32.add (local.get $tries) (i32.const 1)))
        (br_if $again (i32.lt_u (local.get $tries) (i32.const 100))))
      (if (i32.ne (call $pages) (i32.const 0)) (then unreachable))
      (if (i32.ne (memory.size) (i32.const PAGES)) (then unreachable))
      (i32.store (i32.const 4) (i32.const 16)) (i32.store (i32.const 8) (i32.const 1))
      (i32.store8 (i32.const 16) (i32.const 49)) (i32.const 0)))
  (core instance $i (instantiate $main (with "other" (instance $other))))
  (alias core export $i "memory" (core memory $memory))
  (alias core export $i "realloc" (core func $realloc))
  (alias core export $i "run" (core func $run))
  (func (export "run") (param "input" string) (result (result string (error string)))
    (canon lift (core func $run) (memory $memory) (realloc $realloc)))
""".replace("PAGES", str(PAGES))
"""Of two memories, both grown as far as possible: answers 1 if one holds all that is allowed and the other nothing."""


def greedy(other: str = "0", main: str = "1", more: str = "") -> str:
    return f"(component {GREEDY.format(other=other, main=main, more=more)})"


TAKES = '(component $c (import "m" (core module)))'


@pytest.fixture
def load(tmp_path: Path, engine: WasmEngine) -> Callable[[str], Program]:
    """As programs are: compiled by the compiler, and loaded from its cache."""

    def load_(text: str) -> Program:
        wasm, cache = tmp_path / "program.wasm", CodeCache(tmp_path / "code")
        wasm.write_text(text)
        return Program.load(engine, compile_here(wasm, cache, engine.settings), cache, offered_world())

    return load_


@pytest.mark.parametrize("other", ["0", "0 0", "0 100"])
def test_one_memory_grows_to_the_limit_and_the_others_stay_empty(lab: Lab, load: Callable[[str], Program], other: str):
    launch = lab.launch(load(greedy(other)), "", limits=LIMIT)
    lab.drive(lambda: launch.outcome is not None)

    assert launch.value == 1


@pytest.mark.parametrize("other", ["1", "1 1", "1 100"])
def test_two_memories_that_hold_something_are_refused(load: Callable[[str], Program], other: str):
    with pytest.raises(BadProgram, match="2 memories that may hold something, but the limit `memory` is for one"):
        load(greedy(other))


def test_of_two_that_are_empty_one_may_grow():
    changed = with_one_memory(wat2wasm(greedy("0", "0")))

    assert with_one_memory(changed) == changed
    with pytest.raises(BadProgram, match="2 memories"):
        with_one_memory(wat2wasm(greedy("0", "0", "(core instance (instantiate $other))")))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("(core module $m (memory 1)) (core instance (instantiate $m))", "2 memories"),
        ("(core module $m (memory 1)) (core instance (instantiate $m)) (core instance (instantiate $m))", "3 memories"),
        (
            "(component $c (core module $m (memory 1)) (core instance (instantiate $m))) (instance (instantiate $c))",
            "2",
        ),
        ("(core module $m (memory 1 2 shared)) (core instance (instantiate $m))", "shared"),
        ("(core module $m (memory 1) (memory 1)) (core instance (instantiate $m))", "3 memories"),
        ("(core module $m (memory 1)) (component (alias outer 1 $m (core module $n)))", "hands a module"),
        ("(component $c) (component (alias outer 1 $c (component $d)))", "hands a module or component"),
        ('(core module $m (memory 1)) (export "m" (core module $m))', "hands a module"),
        ('(core module $m (memory 1)) (instance (export "m" (core module $m)))', "hands a module"),
        (
            '(component $c (import "m" (core module $n)) (core instance (instantiate $n)))',
            "does not define",
        ),
        (f'(core module $m) {TAKES} (instance (instantiate $c (with "m" (core module $m))))', "hands a module"),
    ],
)
def test_no_way_to_a_second_memory(load: Callable[[str], Program], more: str, words: str):
    with pytest.raises(BadProgram, match=words):
        load(greedy(more=more))


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("(type $a (array (mut i8))) (func (drop (array.new_default $a (i32.const 9))))", "without the gc feature"),
        ("(tag $t) (func (throw $t))", "exceptions proposal not enabled"),
    ],
)
def test_no_heap_beside_the_memory(load: Callable[[str], Program], module: str, words: str):
    with pytest.raises(BadProgram, match=words):
        load(greedy(more=f"(core module {module})"))


def test_what_is_only_defined_holds_nothing(load: Callable[[str], Program]):
    load(
        greedy(
            more='(core module $m (memory 1)) (component (core module (memory 1))) (type $t u8) (export "t" (type 0))'
        )
    )


def test_a_component_of_one_memory_is_left_as_it_is():
    binary = wat2wasm("(component (core module $m (memory 3)) (core instance (instantiate $m)))")

    assert with_one_memory(binary) == binary


@given(st.data())
def test_malformed_components_are_read_or_refused(data: st.DataObject):
    binary = bytearray(wat2wasm(greedy()))
    for _ in range(data.draw(st.integers(1, 3))):
        binary[data.draw(st.integers(0, len(binary) - 1))] = data.draw(st.integers(0, 255))

    with suppress(BadProgram):
        with_one_memory(bytes(binary[: data.draw(st.integers(0, len(binary)))]))


@pytest.mark.parametrize(
    ("many", "words"), [("(table 1 funcref)" * 9, "table count"), ("(table 70000 funcref)", "exceeds table limits")]
)
def test_tables_are_bounded(lab: Lab, load: Callable[[str], Program], many: str, words: str):
    program = load(greedy(more=f"(core module $t {many}) (core instance (instantiate $t))"))

    launch = lab.launch(program, "")
    lab.drive(lambda: launch.outcome is not None)

    assert isinstance(launch.error, LimitExceeded)
    assert words in launch.error.message
