"""Values of every type come back unchanged from a real component."""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from echo_component import PACKAGE, PADDING, echo_component
from hypothesis import given, settings
from hypothesis import strategies as st
from pie_runner.wasm.driver import Driver
from pie_runner.wasm.engine import WasmEngine
from pie_runner.wasm.host import Host
from pie_runner.wasm.hostcall import Case, Err, Ok
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
from pie_runner.wasm.values import python_name
from pie_wire.errors import InternalError
from wasmtime.component import Component

NUMBERS = ["u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64"]
NAMES = ["a", "b-two", "max-tokens", "from", "x9"]


def echo(engine: WasmEngine, type_: Type, value: object, times: int = 1) -> list[Any]:
    """What the host gets back for a value that it gives. Raises the failure of the program."""
    back: list[Any] = []
    outcomes: list[Any] = []
    table = {
        ("host", "give"): lambda _: (value, *[0] * PADDING),
        ("host", "take"): lambda _, got, *padding: back.append(got),
    }
    host = Host(engine, table, package=PACKAGE)
    driver = Driver(host)
    try:
        component = Component(engine.raw, echo_component(type_))
        offered = {key: str(types) for key, types in read_imports(component, engine.raw).functions.items()}
        program = Program(engine, component, offered)
        driver.spawn(program, "x" * times, data=None, on_exit=lambda _, outcome: outcomes.append(outcome))
        while driver.fibers:
            driver.run_ready()
    finally:
        host.close()
    if isinstance(outcomes[0], Exception):
        raise outcomes[0]
    return back


def names(count: int) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(NAMES), min_size=1, max_size=count, unique=True).map(tuple)


def wider(inner: st.SearchStrategy[Type]) -> st.SearchStrategy[Type]:
    def named(many: tuple[str, ...]) -> st.SearchStrategy[tuple[Any, ...]]:
        return st.tuples(*[st.tuples(st.just(name), inner) for name in many])

    def cases(many: tuple[str, ...]) -> st.SearchStrategy[tuple[Any, ...]]:
        return st.tuples(*[st.tuples(st.just(name), st.none() | inner) for name in many])

    return st.one_of(
        inner.map(ListOf),
        st.lists(inner, min_size=1, max_size=3).map(lambda types: TupleOf(tuple(types))),
        names(4).flatmap(named).map(RecordOf),
        names(3).flatmap(cases).map(VariantOf),
        inner.filter(lambda t: not isinstance(t, OptionOf)).map(OptionOf),
        st.builds(ResultOf, st.none() | inner, st.none() | inner),
    )


TYPES: st.SearchStrategy[Type] = st.recursive(
    st.sampled_from([Prim(name) for name in [*NUMBERS, "f32", "f64", "bool", "char", "string"]])
    | names(4).map(EnumOf)
    | names(5).map(FlagsOf),
    wider,
    max_leaves=6,
)


def value_of(type_: Type) -> st.SearchStrategy[Any]:
    match type_:
        case Prim("bool"):
            return st.booleans()
        case Prim("char"):
            return st.characters(exclude_categories=("Cs",))
        case Prim("string"):
            return st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
        case Prim("f32"):
            return st.floats(width=32, allow_nan=False)
        case Prim("f64"):
            return st.floats(allow_nan=False)
        case Prim(name):
            bits = int(name[1:])
            low = 0 if name[0] == "u" else -(2 ** (bits - 1))
            return st.integers(low, low + 2**bits - 1)
        case ListOf(Prim("u8")):
            return st.binary(max_size=40)
        case ListOf(element):
            return st.lists(value_of(element), max_size=6)
        case TupleOf(elements):
            return st.tuples(*map(value_of, elements))
        case RecordOf(fields):
            return st.fixed_dictionaries({python_name(name): value_of(field) for name, field in fields}).map(
                lambda found: SimpleNamespace(**found)
            )
        case VariantOf(cases):
            return st.one_of(
                *[
                    st.just(Case(name)) if case is None else value_of(case).map(lambda v, name=name: Case(name, v))
                    for name, case in cases
                ]
            )
        case EnumOf(many):
            return st.sampled_from(many)
        case FlagsOf(many):
            return st.frozensets(st.sampled_from(many))
        case OptionOf(payload):
            return st.none() | value_of(payload)
        case ResultOf(ok, err):
            left = st.just(Ok()) if ok is None else value_of(ok).map(Ok)
            return left | (st.just(Err()) if err is None else value_of(err).map(Err))
        case _:
            raise TypeError(type_)


def same(type_: Type, given: Any, back: Any) -> bool:
    match type_:
        case RecordOf(fields):
            return all(
                same(field, getattr(given, python_name(name)), getattr(back, python_name(name)))
                for name, field in fields
            )
        case ListOf(element) if element != Prim("u8"):
            return len(given) == len(back) and all(same(element, a, b) for a, b in zip(given, back, strict=True))
        case TupleOf(elements):
            return all(same(t, a, b) for t, a, b in zip(elements, given, back, strict=True))
        case VariantOf(cases):
            payload = dict(cases)[given.tag]
            return given.tag == back.tag and (payload is None or same(payload, given.value, back.value))
        case OptionOf(payload):
            return back is None if given is None else same(payload, given, back)
        case ResultOf(ok, err):
            side = ok if isinstance(given, Ok) else err
            return type(given) is type(back) and (side is None or same(side, given[0], back[0]))
        case _:
            return type(given) is type(back) and given == back


@settings(max_examples=60)
@given(st.data())
def test_every_value_comes_back(engine: WasmEngine, data: st.DataObject):
    type_ = data.draw(TYPES)
    value = data.draw(value_of(type_))

    (back,) = echo(engine, type_, value)

    assert same(type_, value, back), (str(type_), value, back)


@pytest.mark.parametrize("name", [*NUMBERS, "f32", "f64"])
def test_long_lists_of_numbers(engine: WasmEngine, name: str):
    kind = np.dtype({"u": "u", "s": "i", "f": "f"}[name[0]] + str(int(name[1:]) // 8))
    numbers = np.arange(10_000).astype(kind)

    (back,) = echo(engine, ListOf(Prim(name)), numbers)

    assert back == (numbers.tobytes() if name == "u8" else numbers.tolist())


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        (Prim("u8"), 256),
        (Prim("s16"), -40_000),
        (Prim("u32"), -1),
        (ListOf(Prim("u8")), [1, 256]),
        (ListOf(Prim("u32")), [-1]),
        (TupleOf((Prim("u8"), Prim("u8"))), (1,)),
        (EnumOf(("a",)), "b"),
        (FlagsOf(("a",)), {"b"}),
        (VariantOf((("a", None),)), Case("b")),
        (RecordOf((("a", Prim("u8")), ("b", Prim("string")))), SimpleNamespace(a=1)),
        (ListOf(Prim("string")), ["fine", 5]),
        (OptionOf(Prim("string")), 5),
    ],
)
def test_what_does_not_fit_stops_the_guest_and_names_the_function(engine: WasmEngine, type_: Type, value: object):
    with pytest.raises(InternalError, match="test:echo/host#give"):
        echo(engine, type_, value)


def test_nothing_leaks(engine: WasmEngine):
    type_ = RecordOf((("a", ListOf(Prim("string"))), ("b", OptionOf(Prim("string"))), ("c", ListOf(Prim("u32")))))
    value = SimpleNamespace(a=["x" * 50_000] * 4, b="y" * 100_000, c=list(range(1000)))
    echo(engine, type_, value, times=50)
    before = resident_kib()

    echo(engine, type_, value, times=300)

    assert resident_kib() - before < 40 * 1024, "300 passes of 0.3 MB each must not stay"


def resident_kib() -> int:
    with open("/proc/self/statm") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * 4


def test_floats_keep_their_bits(engine: WasmEngine):
    special = [0.0, -0.0, float("inf"), -float("inf"), 1e-45]

    (back,) = echo(engine, ListOf(Prim("f32")), special)

    assert [struct.pack("<f", x) for x in back] == [struct.pack("<f", x) for x in special]
