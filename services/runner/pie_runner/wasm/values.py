"""Component values <-> Python values, by converters compiled once per WIT type.

Lists of numbers move through strided numpy views of the library's value arrays instead of element by element: fifteen
times faster at a thousand elements. What each type looks like in Python is stated in `hostcall`.

Lifting copies and takes nothing over: whoever owns the value frees it. Lowering writes into a value that is `false`; if
it raises, what was written so far is still a valid value that its owner can delete.
"""

from __future__ import annotations

import keyword
from collections import namedtuple
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray
from pie_wire.errors import PieError

from pie_runner.wasm import ffi
from pie_runner.wasm.ffi import Val
from pie_runner.wasm.hostcall import Case, Err, Ok
from pie_runner.wasm.types import (
    EnumOf,
    FlagsOf,
    Handle,
    ListOf,
    OptionOf,
    Prim,
    RecordOf,
    ResultOf,
    Signature,
    TupleOf,
    Type,
    Unknown,
    VariantOf,
)


class Handles(Protocol):
    """Where handles become objects and back: the resources of one fiber."""

    def lift(self, handle: int | None) -> object:
        """The object behind a borrowed handle."""
        ...

    def lower(self, value: object, resource: str) -> int:
        """A new owned handle for an object."""
        ...


Lift = Callable[[Val, Handles], Any]
Lower = Callable[[Any, Val, Handles], None]

_NUMBERS = {
    "u8": (ffi.U8, "u1"),
    "s8": (ffi.S8, "i1"),
    "u16": (ffi.U16, "<u2"),
    "s16": (ffi.S16, "<i2"),
    "u32": (ffi.U32, "<u4"),
    "s32": (ffi.S32, "<i4"),
    "u64": (ffi.U64, "<u8"),
    "s64": (ffi.S64, "<i8"),
    "f32": (ffi.F32, "<f4"),
    "f64": (ffi.F64, "<f8"),
}
_RANGES = {
    f"{sign}{bits}": (0, 2**bits - 1) if sign == "u" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    for sign in "us"
    for bits in (8, 16, 32, 64)
}


class Codec:
    """A function's converters: `lift` its arguments, `lower` its result, or the other way round for exports."""

    __slots__ = ("answers_errors", "lift_params", "lift_result", "lower_params", "lower_result", "signature")

    def __init__(self, signature: Signature) -> None:
        self.signature = signature
        self.lift_params = [lifter(type_) for type_ in signature.params]
        self.lower_params = [lowerer(type_) for type_ in signature.params]
        result = signature.result
        self.lift_result: Lift | None = None if result is None else lifter(result)
        self.lower_result: Lower | None = None if result is None else lowerer(result)
        inner = result.payload if isinstance(result, OptionOf) else result
        self.answers_errors = isinstance(inner, ResultOf) and isinstance(inner.err, RecordOf)


def python_name(name: str) -> str:
    """kebab-case to an identifier: `max-tokens` -> `max_tokens`, `from` -> `from_`."""
    plain = name.replace("-", "_")
    return f"{plain}_" if keyword.iskeyword(plain) else plain


@lru_cache(maxsize=4096)
def lifter(type_: Type) -> Lift:
    """The converter from a component value to Python."""
    match type_:
        case Prim():
            return _lift_prim(type_.name)
        case ListOf(Prim(name)) if name in _NUMBERS:
            return _lift_bytes if name == "u8" else _lift_numbers(name)
        case ListOf(element):
            return _lift_list(lifter(element))
        case TupleOf(elements):
            return _lift_tuple([lifter(element) for element in elements])
        case RecordOf(fields):
            return _lift_record(fields)
        case VariantOf(cases):
            return _lift_variant({name: None if case is None else lifter(case) for name, case in cases})
        case EnumOf():
            return lambda c, _: ffi.read_string(c.of.enumeration)
        case FlagsOf():
            return _lift_flags
        case OptionOf(payload):
            return _lift_option(lifter(payload))
        case ResultOf(ok, err):
            return _lift_result(None if ok is None else lifter(ok), None if err is None else lifter(err))
        case Handle():
            return lambda c, handles: handles.lift(c.of.resource)
        case Unknown(name):
            return _refuse(name)


@lru_cache(maxsize=4096)
def lowerer(type_: Type) -> Lower:
    """The converter from Python to a component value. Raises TypeError or ValueError for a value that does not fit."""
    match type_:
        case Prim():
            return _lower_prim(type_.name)
        case ListOf(Prim(name)) if name in _NUMBERS:
            return _lower_numbers(name)
        case ListOf(element):
            return _lower_list(lowerer(element))
        case TupleOf(elements):
            return _lower_tuple([lowerer(element) for element in elements])
        case RecordOf(fields):
            return _lower_record(fields)
        case VariantOf(cases):
            return _lower_variant({name: None if case is None else lowerer(case) for name, case in cases})
        case EnumOf(names):
            return _lower_enum(names)
        case FlagsOf(names):
            return _lower_flags(names)
        case OptionOf(payload):
            return _lower_option(lowerer(payload))
        case ResultOf(ok, err):
            return _lower_result(None if ok is None else lowerer(ok), None if err is None else lowerer(err))
        case Handle(_, resource):
            return _lower_handle(resource)
        case Unknown(name):
            return _refuse(name)


def _refuse(name: str) -> Callable[..., Any]:
    def refuse(*_: object) -> Any:
        raise TypeError(f"values of type {name} cannot cross to the host")

    return refuse


# Scalars

_LIFT_SCALAR: dict[str, Lift] = {
    "bool": lambda c, _: c.of.boolean,
    "u8": lambda c, _: c.of.u8,
    "s8": lambda c, _: c.of.s8,
    "u16": lambda c, _: c.of.u16,
    "s16": lambda c, _: c.of.s16,
    "u32": lambda c, _: c.of.u32,
    "s32": lambda c, _: c.of.s32,
    "u64": lambda c, _: c.of.u64,
    "s64": lambda c, _: c.of.s64,
    "f32": lambda c, _: c.of.f32,
    "f64": lambda c, _: c.of.f64,
    "char": lambda c, _: chr(c.of.character),
    "string": lambda c, _: ffi.read_string(c.of.string),
}


def _lift_prim(name: str) -> Lift:
    return _LIFT_SCALAR[name]


def _lower_prim(name: str) -> Lower:
    if name == "string":
        return _lower_string
    if name == "bool":
        return _lower_bool
    if name == "char":
        return _lower_char
    kind, _ = _NUMBERS[name]
    if name in _RANGES:
        low, high = _RANGES[name]

        def lower_int(value: Any, c: Val, _: Handles) -> None:
            if not low <= value <= high:
                raise ValueError(f"{value} does not fit {name}")
            setattr(c.of, name, value)
            c.kind = kind

        return lower_int

    def lower_float(value: Any, c: Val, _: Handles) -> None:
        setattr(c.of, name, value)
        c.kind = kind

    return lower_float


def _lower_string(value: Any, c: Val, _: Handles) -> None:
    ffi.write_string(c.of.string, value.encode("utf-8", "replace"))
    c.kind = ffi.STRING


def _lower_bool(value: Any, c: Val, _: Handles) -> None:
    c.of.boolean = value
    c.kind = ffi.BOOL


def _lower_char(value: Any, c: Val, _: Handles) -> None:
    c.of.character = ord(value)
    c.kind = ffi.CHAR


# Lists


# Up to here a plain loop is faster than setting up a view.
_SHORT = 8


@lru_cache(maxsize=16)
def _layout(name: str) -> np.dtype[Any]:
    return np.dtype(
        {
            "names": ["kind", "value"],
            "formats": ["u1", _NUMBERS[name][1]],
            "offsets": [0, ffi.PAYLOAD_OFFSET],
            "itemsize": ffi.VAL_SIZE,
        }
    )


def _view(c: Val, name: str) -> NDArray[Any]:
    vec = c.of.list
    array: NDArray[Any] = np.frombuffer(ffi.list_memory(vec.data, vec.size), dtype=_layout(name))
    return array


def _lift_bytes(c: Val, _: Handles) -> bytes:
    return _view(c, "u8")["value"].tobytes() if c.of.list.size else b""


def _lift_numbers(name: str) -> Lift:
    def lift(c: Val, _: Handles) -> list[Any]:
        vec = c.of.list
        size = vec.size
        if size > _SHORT:
            return _view(c, name)["value"].tolist()
        data = vec.data
        return [getattr(data[i].of, name) for i in range(size)]

    return lift


def _lower_numbers(name: str) -> Lower:
    kind, _ = _NUMBERS[name]
    dtype = np.dtype(_NUMBERS[name][1])
    one = _lower_prim(name)

    def lower(value: Any, c: Val, handles: Handles) -> None:
        if type(value) is list and len(cast("list[Any]", value)) <= _SHORT:
            few = cast("list[Any]", value)
            data = ffi.new_list(c, len(few))
            for i, number in enumerate(few):
                one(number, data[i], handles)
            return
        if isinstance(value, bytes | bytearray):
            numbers: NDArray[Any] = np.frombuffer(value, dtype="u1")
        else:
            # From a list, out-of-range integers raise OverflowError here instead of wrapping.
            numbers = np.asarray(value, dtype=dtype)
        size = len(numbers)
        ffi.new_list(c, size)
        if size:
            view = _view(c, name)
            view["value"] = numbers
            view["kind"] = kind

    return lower


def _lift_list(element: Lift) -> Lift:
    def lift(c: Val, handles: Handles) -> list[Any]:
        vec = c.of.list
        data = vec.data
        return [element(data[i], handles) for i in range(vec.size)]

    return lift


def _lower_list(element: Lower) -> Lower:
    def lower(value: Sequence[Any], c: Val, handles: Handles) -> None:
        data = ffi.new_list(c, len(value))
        for i, item in enumerate(value):
            element(item, data[i], handles)

    return lower


# Products


def _lift_tuple(elements: list[Lift]) -> Lift:
    def lift(c: Val, handles: Handles) -> tuple[Any, ...]:
        data = c.of.tuple.data
        return tuple(element(data[i], handles) for i, element in enumerate(elements))

    return lift


def _lower_tuple(elements: list[Lower]) -> Lower:
    def lower(value: Sequence[Any], c: Val, handles: Handles) -> None:
        if len(value) != len(elements):
            raise ValueError(f"a tuple of {len(elements)} elements is wanted, not {len(value)}")
        data = ffi.new_tuple(c, len(elements))
        for i, element in enumerate(elements):
            element(value[i], data[i], handles)

    return lower


def _named_tuple(names: tuple[str, ...]) -> Callable[..., Any]:
    # Field names are known only now, so there is no type to state.
    return namedtuple("Record", names)  # pyright: ignore[reportUntypedNamedTuple]


def _lift_record(fields: tuple[tuple[str, Type], ...]) -> Lift:
    lifts = [lifter(type_) for _, type_ in fields]
    make: Callable[..., Any] = _named_tuple(tuple(python_name(name) for name, _ in fields))

    def lift(c: Val, handles: Handles) -> Any:
        data = c.of.record.data
        return make(*[element(data[i].val, handles) for i, element in enumerate(lifts)])

    return lift


def _lower_record(fields: tuple[tuple[str, Type], ...]) -> Lower:
    parts = [(name.encode(), python_name(name), lowerer(type_)) for name, type_ in fields]

    def lower(value: Any, c: Val, handles: Handles) -> None:
        data = ffi.new_record(c, len(parts))
        for i, (name, attribute, element) in enumerate(parts):
            entry = data[i]
            ffi.write_string(entry.name, name)
            element(getattr(value, attribute), entry.val, handles)

    return lower


def _lift_flags(c: Val, _: Handles) -> frozenset[str]:
    vec = c.of.flags
    return frozenset(ffi.read_string(vec.data[i]) for i in range(vec.size))


def _lower_flags(names: tuple[str, ...]) -> Lower:
    def lower(value: Any, c: Val, _: Handles) -> None:
        unknown = set(value) - set(names)
        if unknown:
            raise ValueError(f"no such flags: {sorted(unknown)}; there are {list(names)}")
        ffi.new_flags(c, [name.encode() for name in names if name in value])

    return lower


# Sums


def _lower_boxed(lower: Lower, value: Any, handles: Handles) -> Any:
    box = Val()
    try:
        lower(value, box, handles)
    except BaseException:
        ffi.delete_val(box)
        raise
    return ffi.boxed(box)


def _lift_variant(cases: dict[str, Lift | None]) -> Lift:
    def lift(c: Val, handles: Handles) -> Case:
        tag = ffi.read_string(c.of.variant.discriminant)
        payload = cases[tag]
        return Case(tag, None if payload is None else payload(c.of.variant.val[0], handles))

    return lift


def _lower_variant(cases: dict[str, Lower | None]) -> Lower:
    def lower(value: Any, c: Val, handles: Handles) -> None:
        tag, payload = value
        if tag not in cases:
            raise ValueError(f"no case {tag!r}; there are {list(cases)}")
        element = cases[tag]
        box = ffi.NO_VALUE if element is None else _lower_boxed(element, payload, handles)
        ffi.write_string(c.of.variant.discriminant, tag.encode())
        c.of.variant.val = box
        c.kind = ffi.VARIANT

    return lower


def _lower_enum(names: tuple[str, ...]) -> Lower:
    raw = {name: name.encode() for name in names}

    def lower(value: Any, c: Val, _: Handles) -> None:
        if value not in raw:
            raise ValueError(f"no case {value!r}; there are {list(names)}")
        ffi.write_string(c.of.enumeration, raw[value])
        c.kind = ffi.ENUM

    return lower


def _lift_option(payload: Lift) -> Lift:
    def lift(c: Val, handles: Handles) -> Any:
        box = c.of.option
        return None if ffi.is_null(box) else payload(box[0], handles)

    return lift


def _lower_option(payload: Lower) -> Lower:
    def lower(value: Any, c: Val, handles: Handles) -> None:
        c.of.option = ffi.NO_VALUE if value is None else _lower_boxed(payload, value, handles)
        c.kind = ffi.OPTION

    return lower


def _lift_result(ok: Lift | None, err: Lift | None) -> Lift:
    def lift(c: Val, handles: Handles) -> Ok | Err:
        result = c.of.result
        if result.is_ok:
            return Ok(None if ok is None else ok(result.val[0], handles))
        return Err(None if err is None else err(result.val[0], handles))

    return lift


def _lower_result(ok: Lower | None, err: Lower | None) -> Lower:
    def lower(value: Any, c: Val, handles: Handles) -> None:
        failed = isinstance(value, Err | PieError)
        side, payload = (err, _error_of(value)) if failed else (ok, value.value if isinstance(value, Ok) else value)
        box = ffi.NO_VALUE if side is None else _lower_boxed(side, payload, handles)
        c.of.result.is_ok = not failed
        c.of.result.val = box
        c.kind = ffi.RESULT

    return lower


def _error_of(value: Any) -> object:
    error = value.error if isinstance(value, Err) else value
    return error.info() if isinstance(error, PieError) else error


def _lower_handle(resource: str) -> Lower:
    def lower(value: Any, c: Val, handles: Handles) -> None:
        c.of.resource = handles.lower(value, resource)
        c.kind = ffi.RESOURCE

    return lower
