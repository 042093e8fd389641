"""Component values <-> Python values, by converters compiled once per WIT type.

Values go by their address. Lists of numbers move as strided slices of the library's value arrays instead of element by
element. What each type looks like in Python is stated in `hostcall`.

Lifting copies and takes nothing over: whoever owns the value frees it. Lowering writes into a value that is `false`; if
it raises, what was written so far is still a valid value that its owner can delete.
"""

from __future__ import annotations

import keyword
from array import array
from collections import namedtuple
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, Protocol, cast

from pie_wire.errors import PieError

from pie_runner.wasm import ffi, memory
from pie_runner.wasm.ffi import ENTRY_SIZE, ENTRY_VALUE, PAYLOAD, VAL_SIZE
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

    def lift(self, handle: int) -> object:
        """The object behind a borrowed handle."""
        ...

    def lower(self, value: object, resource: str) -> int:
        """A new owned handle for an object."""
        ...

    def take(self, room: int) -> None:
        """The call passes lists of this cost. Raises TooMuchError beyond what one call may."""
        ...

    def take_text(self, size: int) -> None:
        """The call passes a text of so many bytes. Raises TooMuchError beyond what this one may."""
        ...


# What the elements of lists cost of the room of a call: the loop stands still while they are converted.
BYTES_FOR_ONE = 4
NUMBER_COST = 2
ITEM_COST = 64
ROOM = 1 << 19
"""About 30 ms."""
ROOM_IN_WORDS = (
    f"one call passes at most {ROOM // NUMBER_COST:,} numbers, {ROOM * BYTES_FOR_ONE >> 20} MiB as a list of bytes, "
    f"or {ROOM // ITEM_COST:,} elements of other lists"
)

SHORT_TEXT = 1 << 16
"""Bytes that nobody looks at."""
MOST_TEXT = 16 << 20
"""Bytes of a text that is no file, body, export or output."""
LONGEST_TEXT = 128 << 20
"""Of these: as many as the library passes."""

Lift = Callable[[int, Handles], Any]
Lower = Callable[[Any, int, Handles], None]

# Discriminant, typecode of `array`, the view of memory, and by how much an address is shifted to index it.
_NUMBERS: dict[str, tuple[int, str, memoryview[Any], int]] = {
    "u8": (ffi.U8, "B", memory.u8, 0),
    "s8": (ffi.S8, "b", memory.s8, 0),
    "u16": (ffi.U16, "H", memory.u16, 1),
    "s16": (ffi.S16, "h", memory.s16, 1),
    "u32": (ffi.U32, "I", memory.u32, 2),
    "s32": (ffi.S32, "i", memory.s32, 2),
    "u64": (ffi.U64, "Q", memory.u64, 3),
    "s64": (ffi.S64, "q", memory.s64, 3),
    "f32": (ffi.F32, "f", memory.f32, 2),
    "f64": (ffi.F64, "d", memory.f64, 3),
}


class Codec:
    """A function's converters: `lift` its arguments, `lower` its result, or the other way round for exports."""

    __slots__ = (
        "answers_errors",
        "has_lists",
        "lift_params",
        "lift_result",
        "lower_params",
        "lower_result",
        "signature",
    )

    lift_params: list[tuple[Lift, int]]
    """Each with the offset of its value from the first."""

    def __init__(self, signature: Signature) -> None:
        self.signature = signature
        self.lift_params = [(lifter(type_), at * VAL_SIZE) for at, type_ in enumerate(signature.params)]
        self.lower_params = [lowerer(type_) for type_ in signature.params]
        self.has_lists = any(has_lists(type_) for type_ in signature.params)
        result = signature.result
        self.lift_result: Lift | None = None if result is None else lifter(result)
        self.lower_result: Lower | None = None if result is None else lowerer(result)
        inner = result.payload if isinstance(result, OptionOf) else result
        self.answers_errors = isinstance(inner, ResultOf) and isinstance(inner.err, RecordOf)


@lru_cache(maxsize=4096)
def has_lists(type_: Type) -> bool:
    """Whether values of that type may be of any length, texts aside."""
    match type_:
        case ListOf():
            return True
        case TupleOf(elements):
            return any(map(has_lists, elements))
        case RecordOf(fields):
            return any(has_lists(field) for _, field in fields)
        case VariantOf(cases):
            return any(case is not None and has_lists(case) for _, case in cases)
        case OptionOf(payload):
            return has_lists(payload)
        case ResultOf(ok, err):
            return any(side is not None and has_lists(side) for side in (ok, err))
        case _:
            return False


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
            return _lift_string
        case FlagsOf():
            return _lift_flags
        case OptionOf(payload):
            return _lift_option(lifter(payload))
        case ResultOf(ok, err):
            return _lift_result(None if ok is None else lifter(ok), None if err is None else lifter(err))
        case Handle():
            return lambda at, handles: handles.lift(memory.u64[at + PAYLOAD >> 3])
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


def _lift_prim(name: str) -> Lift:
    if name == "string":
        return _lift_string
    if name == "bool":
        return lambda at, _: bool(memory.u8[at + PAYLOAD])
    if name == "char":
        return lambda at, _: chr(memory.u32[at + PAYLOAD >> 2])
    _, _, view, shift = _NUMBERS[name]
    return lambda at, _: view[at + PAYLOAD >> shift]


def _lift_string(at: int, handles: Handles) -> str:
    if memory.u64[at + PAYLOAD >> 3] > SHORT_TEXT:
        handles.take_text(memory.u64[at + PAYLOAD >> 3])
    return memory.text(at + PAYLOAD)


def _lower_prim(name: str) -> Lower:
    if name == "string":
        return _lower_string
    if name == "bool":
        return _lower_bool
    if name == "char":
        return _lower_char
    kind, _, view, shift = _NUMBERS[name]

    def lower(value: Any, at: int, _: Handles) -> None:
        try:
            view[at + PAYLOAD >> shift] = value
        except ValueError:
            raise ValueError(f"{value} does not fit {name}") from None
        memory.u8[at] = kind

    return lower


def _lower_string(value: Any, at: int, _: Handles) -> None:
    ffi.write_string(at + PAYLOAD, value if value.__class__ is bytes else value.encode("utf-8", "replace"))
    memory.u8[at] = ffi.STRING


def _lower_bool(value: Any, at: int, _: Handles) -> None:
    memory.u8[at + PAYLOAD] = bool(value)
    memory.u8[at] = ffi.BOOL


def _lower_char(value: Any, at: int, _: Handles) -> None:
    memory.u32[at + PAYLOAD >> 2] = ord(value)
    memory.u8[at] = ffi.CHAR


# Lists


def _slice(data: int, size: int, shift: int) -> slice:
    """Indexes of the payloads of `size` values at `data`."""
    first = data + PAYLOAD >> shift
    step = VAL_SIZE >> shift
    return slice(first, first + size * step, step)


def _lift_bytes(at: int, handles: Handles) -> bytes:
    size = memory.u64[at + PAYLOAD >> 3]
    handles.take(size // BYTES_FOR_ONE)
    return bytes(memory.u8[_slice(memory.u64[at + PAYLOAD + 8 >> 3], size, 0)]) if size else b""


def _lift_numbers(name: str) -> Lift:
    _, _, view, shift = _NUMBERS[name]

    def lift(at: int, handles: Handles) -> list[Any]:
        size = memory.u64[at + PAYLOAD >> 3]
        if size == 1:
            return [view[memory.u64[at + PAYLOAD + 8 >> 3] + PAYLOAD >> shift]]
        handles.take(size * NUMBER_COST)
        return view[_slice(memory.u64[at + PAYLOAD + 8 >> 3], size, shift)].tolist() if size else []

    return lift


def _items(value: Iterable[Any], typecode: str) -> memoryview[Any]:
    """Numbers as C items: a buffer of just these is taken as it is; out-of-range integers raise OverflowError."""
    if type(value) is not list:
        try:
            raw: memoryview[Any] = memoryview(cast(Any, value))
        except TypeError:
            pass  # some other sequence
        else:
            if raw.format == typecode and raw.ndim == 1:
                return raw
    numbers: array[Any] = array(typecode, [*value])
    return memoryview(numbers)


def _lower_numbers(name: str) -> Lower:
    kind, typecode, view, shift = _NUMBERS[name]
    raw = bytes([kind])
    item = _lower_prim(name)

    def lower(value: Any, at: int, handles: Handles) -> None:
        if len(value) == 1 and value.__class__ is list:  # an answer of `wait-any`, as a rule
            item(value[0], ffi.new_list(at, 1), handles)
            return
        numbers = _items(value, typecode)
        size = len(numbers)
        data = ffi.new_list(at, size)
        if size:
            view[_slice(data, size, shift)] = numbers
            memory.u8[data : data + size * VAL_SIZE : VAL_SIZE] = raw * size

    return lower


def _lift_list(element: Lift) -> Lift:
    def lift(at: int, handles: Handles) -> list[Any]:
        size = memory.u64[at + PAYLOAD >> 3]
        handles.take(size * ITEM_COST)
        data = memory.u64[at + PAYLOAD + 8 >> 3]
        return [element(data + offset, handles) for offset in range(0, size * VAL_SIZE, VAL_SIZE)]

    return lift


def _lower_list(element: Lower) -> Lower:
    def lower(value: Sequence[Any], at: int, handles: Handles) -> None:
        data = ffi.new_list(at, len(value))
        for i, item in enumerate(value):
            element(item, data + i * VAL_SIZE, handles)

    return lower


# Products


def _lift_tuple(elements: list[Lift]) -> Lift:
    parts = [(element, i * VAL_SIZE) for i, element in enumerate(elements)]

    def lift(at: int, handles: Handles) -> tuple[Any, ...]:
        data = memory.u64[at + PAYLOAD + 8 >> 3]
        return tuple([element(data + offset, handles) for element, offset in parts])

    return lift


def _lower_tuple(elements: list[Lower]) -> Lower:
    def lower(value: Sequence[Any], at: int, handles: Handles) -> None:
        if len(value) != len(elements):
            raise ValueError(f"a tuple of {len(elements)} elements is wanted, not {len(value)}")
        data = ffi.new_tuple(at, len(elements))
        for i, element in enumerate(elements):
            element(value[i], data + i * VAL_SIZE, handles)

    return lower


def _named_tuple(names: tuple[str, ...]) -> Callable[..., Any]:
    # Field names are known only now, so there is no type to state.
    return namedtuple("Record", names)  # pyright: ignore[reportUntypedNamedTuple]


def _lift_record(fields: tuple[tuple[str, Type], ...]) -> Lift:
    parts = [(lifter(type_), i * ENTRY_SIZE + ENTRY_VALUE) for i, (_, type_) in enumerate(fields)]
    make: Callable[..., Any] = _named_tuple(tuple(python_name(name) for name, _ in fields))

    def lift(at: int, handles: Handles) -> Any:
        data = memory.u64[at + PAYLOAD + 8 >> 3]
        return make(*[element(data + offset, handles) for element, offset in parts])

    return lift


def _lower_record(fields: tuple[tuple[str, Type], ...]) -> Lower:
    parts = [
        (i * ENTRY_SIZE, name.encode(), python_name(name), lowerer(type_)) for i, (name, type_) in enumerate(fields)
    ]

    def lower(value: Any, at: int, handles: Handles) -> None:
        data = ffi.new_record(at, len(parts))
        for offset, name, attribute, element in parts:
            ffi.write_string(data + offset, name)
            element(getattr(value, attribute), data + offset + ENTRY_VALUE, handles)

    return lower


def _lift_flags(at: int, _: Handles) -> frozenset[str]:
    size = memory.u64[at + PAYLOAD >> 3]
    data = memory.u64[at + PAYLOAD + 8 >> 3]
    return frozenset(memory.text(data + i * ffi.VEC_SIZE) for i in range(size))


def _lower_flags(names: tuple[str, ...]) -> Lower:
    def lower(value: Any, at: int, _: Handles) -> None:
        unknown = set(value) - set(names)
        if unknown:
            raise ValueError(f"no such flags: {sorted(unknown)}; there are {list(names)}")
        ffi.new_flags(at, [name.encode() for name in names if name in value])

    return lower


# Sums. What holds a payload is whole before the payload is written: if that fails, it is deleted with its holder.


def _lift_variant(cases: dict[str, Lift | None]) -> Lift:
    def lift(at: int, handles: Handles) -> Case:
        tag = memory.text(at + PAYLOAD)
        payload = cases[tag]
        return Case(tag, None if payload is None else payload(memory.u64[at + PAYLOAD + 16 >> 3], handles))

    return lift


def _lower_variant(cases: dict[str, Lower | None]) -> Lower:
    def lower(value: Any, at: int, handles: Handles) -> None:
        tag, payload = value
        if tag not in cases:
            raise ValueError(f"no case {tag!r}; there are {list(cases)}")
        element = cases[tag]
        box = 0 if element is None else ffi.new_box()
        ffi.write_string(at + PAYLOAD, tag.encode())
        memory.u64[at + PAYLOAD + 16 >> 3] = box
        memory.u8[at] = ffi.VARIANT
        if element is not None:
            element(payload, box, handles)

    return lower


def _lower_enum(names: tuple[str, ...]) -> Lower:
    raw = {name: name.encode() for name in names}

    def lower(value: Any, at: int, _: Handles) -> None:
        if value not in raw:
            raise ValueError(f"no case {value!r}; there are {list(names)}")
        ffi.write_string(at + PAYLOAD, raw[value])
        memory.u8[at] = ffi.ENUM

    return lower


def _lift_option(payload: Lift) -> Lift:
    def lift(at: int, handles: Handles) -> Any:
        box = memory.u64[at + PAYLOAD >> 3]
        return payload(box, handles) if box else None

    return lift


def _lower_option(payload: Lower) -> Lower:
    def lower(value: Any, at: int, handles: Handles) -> None:
        box = 0 if value is None else ffi.new_box()
        memory.u64[at + PAYLOAD >> 3] = box
        memory.u8[at] = ffi.OPTION
        if box:
            payload(value, box, handles)

    return lower


def _lift_result(ok: Lift | None, err: Lift | None) -> Lift:
    def lift(at: int, handles: Handles) -> Ok | Err:
        box = memory.u64[at + PAYLOAD + 8 >> 3]
        if memory.u8[at + PAYLOAD]:
            return Ok(None if ok is None else ok(box, handles))
        return Err(None if err is None else err(box, handles))

    return lift


def _lower_result(ok: Lower | None, err: Lower | None) -> Lower:
    def lower(value: Any, at: int, handles: Handles) -> None:
        failed = isinstance(value, Err | PieError)
        side, payload = (err, _error_of(value)) if failed else (ok, value.value if isinstance(value, Ok) else value)
        box = 0 if side is None else ffi.new_box()
        memory.u8[at + PAYLOAD] = not failed
        memory.u64[at + PAYLOAD + 8 >> 3] = box
        memory.u8[at] = ffi.RESULT
        if side is not None:
            side(payload, box, handles)

    return lower


def _error_of(value: Any) -> object:
    error = value.error if isinstance(value, Err) else value
    return error.info() if isinstance(error, PieError) else error


def _lower_handle(resource: str) -> Lower:
    def lower(value: Any, at: int, handles: Handles) -> None:
        memory.u64[at + PAYLOAD >> 3] = handles.lower(value, resource)
        memory.u8[at] = ffi.RESOURCE

    return lower
