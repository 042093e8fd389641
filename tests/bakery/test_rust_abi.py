"""The generated Rust bindings pass values of any type to and fro unchanged, and own what they are given."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pie_bakery.folders import place, sdk_folder, tree
from pie_bakery.rust import RustToolchain, make_component
from pie_bakery.rust_bindings import rust_bindings
from pie_bakery.tools import BuildError
from pie_bakery.wit import Wit
from pie_runner.wasm.driver import Driver
from pie_runner.wasm.engine import WasmEngine
from pie_runner.wasm.host import Host
from pie_runner.wasm.program import Program
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
    read_imports,
)
from pie_wire.errors import Unsupported
from wasmtime.component import Component

sys.path.insert(0, str(Path(__file__).parents[1] / "runner" / "wasm"))

from test_values import same, value_of

PADDING = 16
NUMBERS = ("u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64", "f32", "f64")
PRIMITIVES = (*NUMBERS, "bool", "char", "string")
NAMES = ("a", "b-two", "type", "self", "x9", "max-tokens")

CARGO = """
[package]
name = "echo"
version = "0.1.0"
edition = "2021"

[lib]
crate-type = ["cdylib"]

[profile.release]
opt-level = 1
"""

LIB = """
#[allow(dead_code, unused_macros)]
#[macro_use]
mod abi;
mod bindings;

use bindings::host;

fn echo(what: &str) {
    match what {
        %s
        "things" => {
            let thing = host::Thing::new("first");
            thing.touch();
            let pair = host::Pair { left: thing, right: Some(host::Thing::new("second")) };
            let mut things = host::keep_one(pair);
            things[0].touch();
            host::give_back(things.remove(0));
        }
        other => panic!("{}", other),
    }
}

#[export_name = "run"]
pub unsafe extern "C" fn run(at: *mut u8, length: usize) -> *mut u8 {
    let what = String::from_raw_parts(at, length, length);
    echo(&what);
    let done: Result<String, String> = Ok(what);
    let mut arena = abi::Arena::default();
    let area = arena.store(&done);
    std::mem::forget((arena, done));
    area
}
"""

RESOURCES = """
    resource thing {
      constructor(name: string);
      touch: func();
    }
    record pair { left: thing, right: option<thing> }
    keep-one: func(pair: pair) -> list<thing>;
    give-back: func(thing: thing);
"""


def types() -> list[Type]:
    """Every primitive and every kind of compound, then compounds of compounds."""
    rng = random.Random(11)
    simple: list[Type] = [Prim(name) for name in PRIMITIVES]
    simple += [EnumOf(NAMES[:3]), EnumOf(tuple(f"c{i}" for i in range(300))), FlagsOf(NAMES[:3])]
    simple += [FlagsOf(tuple(f"f{i}" for i in range(count))) for count in (9, 17)]
    made = list(simple)
    for kind in range(36):
        inner = [rng.choice(made) for _ in range(3)]
        named = tuple(zip(rng.sample(NAMES, 3), inner, strict=True))
        made.append(
            (
                ListOf(inner[0]),
                TupleOf(tuple(inner)),
                RecordOf(named),
                VariantOf((("none", None), *named)),
                OptionOf(inner[0]) if not isinstance(inner[0], OptionOf) else OptionOf(inner[1]),
                ResultOf(inner[0] if kind % 4 else None, inner[1] if kind % 3 else None),
            )[kind % 6]
        )
    wide = tuple((f"n{i}", rng.choice(made[:20])) for i in range(18))
    return [*made, RecordOf(wide), VariantOf((("wide", RecordOf(wide)), ("f", Prim("f32")), ("i", Prim("u64"))))]


class Writer:
    """WIT definitions of types; `%` because names may be keywords."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._known: dict[Type, str] = {}

    def ref(self, type_: Type | None) -> str:
        match type_:
            case None:
                return "_"
            case Prim(name):
                return name
            case ListOf(element):
                return f"list<{self.ref(element)}>"
            case TupleOf(elements):
                return f"tuple<{', '.join(map(self.ref, elements))}>"
            case OptionOf(payload):
                return f"option<{self.ref(payload)}>"
            case ResultOf(None, None):
                return "result"
            case ResultOf(ok, None):
                return f"result<{self.ref(ok)}>"
            case ResultOf(ok, err):
                return f"result<{self.ref(ok)}, {self.ref(err)}>"
            case _:
                return self._named(type_)

    def _named(self, type_: Type) -> str:
        known = self._known.get(type_)
        if known is None:
            match type_:
                case RecordOf(fields):
                    kind, inner = "record", [f"%{name}: {self.ref(each)}" for name, each in fields]
                case VariantOf(cases):
                    kind = "variant"
                    inner = [f"%{name}" if each is None else f"%{name}({self.ref(each)})" for name, each in cases]
                case EnumOf(many):
                    kind, inner = "enum", [f"%{name}" for name in many]
                case FlagsOf(many):
                    kind, inner = "flags", [f"%{name}" for name in many]
                case _:
                    raise TypeError(type_)
            known = self._known[type_] = f"t{len(self._known)}"
            self.lines.append(f"    {kind} {known} {{ {', '.join(inner)} }}")
        return known


def argument(type_: Type) -> str:
    """How `value` is passed on by the Rust guest."""
    match type_:
        case Prim("string") | ListOf() | RecordOf() | VariantOf():
            return "&value"
        case OptionOf(Prim("string") | ListOf()):
            return "value.as_deref()"
        case OptionOf(RecordOf() | VariantOf()):
            return "value.as_ref()"
        case OptionOf(OptionOf() | TupleOf() | ResultOf()) | TupleOf() | ResultOf():
            return "value.clone()"
        case _:
            return "value"


@dataclass(eq=False)
class Thing:
    """A resource that knows what became of it."""

    name: str
    touched: int = 0
    closed: int = 0

    def close(self) -> None:
        self.closed += 1


@dataclass(repr=False)
class Echo:
    """The component on a host whose `give` gives `value`."""

    types: list[Type]
    wasm: bytes
    value: Any = None
    back: list[Any] = field(default_factory=list[Any])
    things: list[Thing] = field(default_factory=list[Thing])
    kept: Any = None

    def __post_init__(self) -> None:
        self.engine = WasmEngine()
        self.host = Host(self.engine, self._table(), package="test:echo")
        self.driver = Driver(self.host)
        component = Component(self.engine.raw, self.wasm)
        offered = {key: str(types) for key, types in read_imports(component, self.engine.raw).functions.items()}
        self.program = Program(self.engine, component, offered)

    def _table(self) -> dict[tuple[str, str], Callable[..., object]]:
        def thing(_: object, name: str) -> Thing:
            self.things.append(Thing(name))
            return self.things[-1]

        def touch(_: object, touched: Thing) -> None:
            touched.touched += 1

        def keep_one(_: object, pair: Any) -> list[Thing]:
            self.kept = pair
            return [thing(None, "third")]

        table: dict[tuple[str, str], Callable[..., object]] = {
            ("host", "[constructor]thing"): thing,
            ("host", "[method]thing.touch"): touch,
            ("host", "keep-one"): keep_one,
            ("host", "give-back"): lambda _, thing: self.back.append(thing),
        }
        for index in range(len(self.types)):
            table["host", f"give{index}"] = lambda _: self.value
            table["host", f"take{index}"] = lambda _, got: self.back.append(got)
            table["host", f"spill{index}"] = lambda _, got, *padding: self.back.append((got, padding))
        return table

    def run(self, what: str) -> None:
        """Raises what went wrong in the program."""
        outcomes: list[Any] = []
        self.back.clear()
        self.driver.spawn(self.program, what, data=None, on_exit=lambda _, outcome: outcomes.append(outcome))
        while self.driver.fibers:
            self.driver.run_ready()
        if isinstance(outcomes[0], Exception):
            raise outcomes[0]


@pytest.fixture(scope="module")
def echo(missing: Callable[[str], None], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Echo]:
    try:
        toolchain = RustToolchain.find()
    except Unsupported as exc:
        missing(exc.message)
        raise
    folder = tmp_path_factory.mktemp("echo")
    made = types()
    writer = Writer()
    functions: list[str] = []
    arms: list[str] = []
    padding = ", ".join(f"p{i}: u8" for i in range(PADDING))
    numbers = ", ".join(f"{i}" for i in range(PADDING))
    for index, type_ in enumerate(made):
        text = writer.ref(type_)
        functions.append(f"    give{index}: func() -> {text};\n    take{index}: func(v: {text});")
        functions.append(f"    spill{index}: func(v: {text}, {padding});")
        give = f"let value = host::give{index}(); host::take{index}({argument(type_)});"
        arms.append(f'"{index}" => {{ {give} host::spill{index}({argument(type_)}, {numbers}); }}')
    interface = "\n".join([RESOURCES, *writer.lines, *functions])
    world = "world echo { import host; export run: func(input: string) -> result<string, string>; }"
    (folder / "wit").mkdir()
    (folder / "wit" / "echo.wit").write_text(f"package test:echo@0.1.0;\ninterface host {{{interface}}}\n{world}\n")
    bindings = rust_bindings(Wit.read(folder / "wit", "echo"))
    crate = {f"src/{name}": data for name, data in tree(sdk_folder() / "rust" / "src", "abi/*.rs").items()}
    place(
        crate
        | {
            "Cargo.toml": CARGO.encode(),
            "src/bindings.rs": bindings.encode(),
            "src/lib.rs": (LIB % "\n        ".join(arms)).encode(),
        },
        folder / "crate",
    )
    component = folder / "echo.wasm"
    make_component(toolchain.compile(folder / "crate" / "Cargo.toml"), component, folder / "wit", "echo")
    made_echo = Echo(made, component.read_bytes())
    yield made_echo
    made_echo.host.close()
    made_echo.engine.close()


@settings(max_examples=300)
@given(st.data())
def test_every_value_comes_back(echo: Echo, data: st.DataObject):
    index = data.draw(st.integers(0, len(echo.types) - 1))
    type_ = echo.types[index]
    echo.value = data.draw(value_of(type_))

    echo.run(str(index))

    taken, (spilled, padding) = echo.back
    assert same(type_, echo.value, taken), (str(type_), echo.value, taken)
    assert same(type_, echo.value, spilled), (str(type_), echo.value, spilled)
    assert padding == tuple(range(PADDING))


def test_handles_are_owned_lent_and_given_away(echo: Echo):
    echo.things.clear()

    echo.run("things")

    first, second, third = echo.things
    assert (echo.kept.left, echo.kept.right, echo.back) == (first, second, [third])
    assert [(thing.name, thing.touched) for thing in echo.things] == [("first", 1), ("second", 0), ("third", 1)]
    assert [thing.closed for thing in echo.things] == [1, 1, 1]


@pytest.mark.parametrize(
    ("wit", "word"),
    [
        ("interface i { f: func() -> future<u8>; } world w { import i; }", "future"),
        ("interface i { f: async func(); } world w { import i; }", "async"),
        ("world w { import f: func(); }", "'f'"),
    ],
)
def test_what_the_generator_does_not_do_it_refuses(tmp_path: Path, wit: str, word: str):
    (tmp_path / "w.wit").write_text(f"package a:b;\n{wit}\n")

    with pytest.raises(BuildError, match=word):
        rust_bindings(Wit.read(tmp_path, "w"))
