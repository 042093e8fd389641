"""WIT types as plain data, read once from a component.

The published bindings describe types by live C objects that cost a call per look; a program's imports are turned into
these values when it is loaded, and everything after works on them.
"""

from __future__ import annotations

from dataclasses import dataclass

from wasmtime import Engine
from wasmtime.component import Component
from wasmtime.component import _types as live  # pyright: ignore[reportPrivateUsage]
from wasmtime.component._resource_type import ResourceType


@dataclass(frozen=True, slots=True)
class Prim:
    """bool, char, string or a number, by its WIT name."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class ListOf:
    """list<element>"""

    element: Type

    def __str__(self) -> str:
        return f"list<{self.element}>"


@dataclass(frozen=True, slots=True)
class TupleOf:
    """tuple<...>"""

    elements: tuple[Type, ...]

    def __str__(self) -> str:
        return f"tuple<{', '.join(map(str, self.elements))}>"


@dataclass(frozen=True, slots=True)
class RecordOf:
    """record with its fields in order"""

    fields: tuple[tuple[str, Type], ...]

    def __str__(self) -> str:
        return f"record{{{', '.join(f'{name}: {type_}' for name, type_ in self.fields)}}}"


@dataclass(frozen=True, slots=True)
class VariantOf:
    """variant with its cases in order"""

    cases: tuple[tuple[str, Type | None], ...]

    def __str__(self) -> str:
        return f"variant{{{', '.join(name if t is None else f'{name}({t})' for name, t in self.cases)}}}"


@dataclass(frozen=True, slots=True)
class EnumOf:
    """enum"""

    names: tuple[str, ...]

    def __str__(self) -> str:
        return f"enum{{{', '.join(self.names)}}}"


@dataclass(frozen=True, slots=True)
class FlagsOf:
    """flags"""

    names: tuple[str, ...]

    def __str__(self) -> str:
        return f"flags{{{', '.join(self.names)}}}"


@dataclass(frozen=True, slots=True)
class OptionOf:
    """option<payload>"""

    payload: Type

    def __str__(self) -> str:
        return f"option<{self.payload}>"


@dataclass(frozen=True, slots=True)
class ResultOf:
    """result<ok, err>; None where a side carries nothing"""

    ok: Type | None
    err: Type | None

    def __str__(self) -> str:
        return f"result<{'_' if self.ok is None else self.ok}, {'_' if self.err is None else self.err}>"


@dataclass(frozen=True, slots=True)
class Handle:
    """own<resource> or borrow<resource>; `resource` is `interface.name` of its definition."""

    owned: bool
    resource: str

    def __str__(self) -> str:
        return f"{'own' if self.owned else 'borrow'}<{self.resource}>"


@dataclass(frozen=True, slots=True)
class Unknown:
    """A type that host functions cannot take: futures, streams, maps."""

    name: str

    def __str__(self) -> str:
        return self.name


Type = Prim | ListOf | TupleOf | RecordOf | VariantOf | EnumOf | FlagsOf | OptionOf | ResultOf | Handle | Unknown


@dataclass(frozen=True, slots=True)
class Signature:
    """A function's parameters (names do not matter) and its result."""

    params: tuple[Type, ...]
    result: Type | None

    def __str__(self) -> str:
        params = ", ".join(map(str, self.params))
        return f"({params})" if self.result is None else f"({params}) -> {self.result}"


_PRIMS: dict[type[live.ValType], str] = {
    live.Bool: "bool",
    live.S8: "s8",
    live.U8: "u8",
    live.S16: "s16",
    live.U16: "u16",
    live.S32: "s32",
    live.U32: "u32",
    live.S64: "s64",
    live.U64: "u64",
    live.F32: "f32",
    live.F64: "f64",
    live.Char: "char",
    live.String: "string",
}


def base_name(interface: str) -> str:
    """`wasi:io/poll@0.2.12` -> `wasi:io/poll`: patch versions of one interface are one interface here."""
    return interface.partition("@")[0]


class _Reader:
    """Reads types of one component; knows its resources by the interface that defined them first."""

    def __init__(self) -> None:
        self._resources: list[tuple[ResourceType, str]] = []

    def define(self, resource: ResourceType, name: str) -> None:
        if self.name_of(resource) is None:
            self._resources.append((resource, name))

    def name_of(self, resource: ResourceType) -> str | None:
        return next((name for known, name in self._resources if known == resource), None)

    def signature(self, function: live.FuncType) -> Signature:
        result = function.result
        return Signature(
            tuple(self.read(type_) for _, type_ in function.params), None if result is None else self.read(result)
        )

    def read(self, type_: live.ValType) -> Type:
        prim = _PRIMS.get(type(type_))
        if prim is not None:
            return Prim(prim)
        if isinstance(type_, live.ListType):
            return ListOf(self.read(type_.element))
        if isinstance(type_, live.TupleType):
            return TupleOf(tuple(self.read(element) for element in type_.elements))
        if isinstance(type_, live.RecordType):
            return RecordOf(tuple((name, self.read(field)) for name, field in type_.fields))
        if isinstance(type_, live.VariantType):
            return VariantOf(tuple((name, self.optional(case)) for name, case in type_.cases))
        if isinstance(type_, live.EnumType):
            return EnumOf(tuple(type_.names))
        if isinstance(type_, live.OptionType):
            return OptionOf(self.read(type_.payload))
        if isinstance(type_, live.ResultType):
            return ResultOf(self.optional(type_.ok), self.optional(type_.err))
        if isinstance(type_, live.FlagsType):
            return FlagsOf(tuple(type_.names))
        if isinstance(type_, live.OwnType | live.BorrowType):
            return Handle(isinstance(type_, live.OwnType), self.name_of(type_.ty) or "?")
        return Unknown(type(type_).__name__)

    def optional(self, type_: live.ValType | None) -> Type | None:
        return None if type_ is None else self.read(type_)


@dataclass(frozen=True, slots=True)
class Imports:
    """What a component asks of its host, and what it offers at its top level."""

    functions: dict[tuple[str, str], Signature]
    """By (interface without version, function)."""
    interfaces: tuple[str, ...]
    """Full names of the imported interfaces, versions included."""
    others: tuple[str, ...]
    """Imports that are no interfaces: bare functions, modules, components."""
    exports: dict[str, Signature]
    """Functions exported at the top level."""


def read_imports(component: Component, engine: Engine) -> Imports:
    """Read a component's type. Takes milliseconds: once per program, not per instance."""
    reader = _Reader()
    type_ = component.type
    functions: dict[tuple[str, str], Signature] = {}
    interfaces: list[str] = []
    others: list[str] = []
    imported = type_.imports(engine)
    found: list[tuple[str, dict[str, live.ComponentExtern]]] = []
    for name, extern in imported.items():
        item = extern.ty
        if not isinstance(item, live.ComponentInstanceType):
            others.append(name)
            continue
        interfaces.append(name)
        exports = item.exports(engine)
        found.append((base_name(name), exports))
        short = base_name(name).rpartition("/")[2]
        for export, thing in exports.items():
            inner = thing.ty
            if isinstance(inner, ResourceType):
                reader.define(inner, f"{short}.{export}")
    for interface, exports in found:
        for export, thing in exports.items():
            inner = thing.ty
            if isinstance(inner, live.FuncType):
                functions[interface, export] = reader.signature(inner)
    offered: dict[str, Signature] = {}
    for name, extern in type_.exports(engine).items():
        item = extern.ty
        if isinstance(item, live.FuncType):
            offered[name] = reader.signature(item)
    return Imports(functions, tuple(interfaces), tuple(others), offered)
