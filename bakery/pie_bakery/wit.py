"""A WIT package as data: what `wasm-tools component wit --json` says, with its indices resolved."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pie_bakery.tools import BuildError, run_tool, wasm_tools


@dataclass(frozen=True)
class Field:
    """Of a record: always with a type. Of a variant: perhaps without. Of a function: a parameter."""

    name: str
    type: Type | None
    docs: str = ""


@dataclass(frozen=True)
class Record:
    """Named values."""

    fields: tuple[Field, ...]


@dataclass(frozen=True)
class Variant:
    """One of several cases, some with a payload."""

    cases: tuple[Field, ...]


@dataclass(frozen=True)
class Enum:
    """One of several names."""

    cases: tuple[Field, ...]


@dataclass(frozen=True)
class Flags:
    """A set of names."""

    names: tuple[Field, ...]


@dataclass(frozen=True)
class Resource:
    """What handles point to."""


@dataclass(frozen=True)
class Alias:
    """Another name of a type."""

    target: Type


@dataclass(frozen=True)
class ListOf:
    """Any number of one type."""

    element: Type


@dataclass(frozen=True)
class OptionOf:
    """A value or none."""

    payload: Type


@dataclass(frozen=True)
class ResultOf:
    """A value or an error; either may carry nothing."""

    ok: Type | None
    error: Type | None


@dataclass(frozen=True)
class TupleOf:
    """Values by position."""

    items: tuple[Type, ...]


@dataclass(frozen=True)
class Own:
    """A handle that changes hands."""

    resource: TypeDef


@dataclass(frozen=True)
class Borrow:
    """A handle lent for a call."""

    resource: TypeDef


Shape = Record | Variant | Enum | Flags | Resource | Alias | ListOf | OptionOf | ResultOf | TupleOf | Own | Borrow


@dataclass(frozen=True, eq=False)
class TypeDef:
    """A type with its name, if it has one, and the interface that defines it."""

    index: int
    name: str
    owner: int | None
    shape: Shape
    docs: str = ""


Type = str | TypeDef
"""A primitive by name, or a definition."""


@dataclass(frozen=True)
class Function:
    """`resource` is set for methods, statics and constructors; `name` is the name in WIT, `[method]run.next`."""

    name: str
    kind: str
    resource: TypeDef | None
    params: tuple[Field, ...]
    result: Type | None
    docs: str = ""

    @property
    def short_name(self) -> str:
        """`next` of `[method]run.next`; empty for a constructor."""
        if self.kind == "constructor":
            return ""
        return self.name.rpartition(".")[2] if self.resource is not None else self.name


@dataclass(frozen=True)
class Interface:
    """Named types and functions. `module` is its full name: `pie:inferlet/context@0.1.0`."""

    index: int
    name: str
    module: str
    types: tuple[TypeDef, ...]
    functions: tuple[Function, ...]
    docs: str = ""


def base(type_: Type) -> Type:
    """What an alias stands for, through any number of aliases."""
    while isinstance(type_, TypeDef) and isinstance(type_.shape, Alias):
        type_ = type_.shape.target
    return type_


class Wit:
    """One world of a package, or the world of a component."""

    def __init__(self, raw: Mapping[str, Any], world: str | None = None) -> None:
        self._raw = raw
        self._types: dict[int, TypeDef] = {}
        worlds: list[Mapping[str, Any]] = raw["worlds"]
        named = [each for each in worlds if world is None or each["name"] == world]
        if len(named) != 1:
            raise BuildError(
                f"The WIT has {len(named)} worlds called {world!r}; there are {[w['name'] for w in worlds]}."
            )
        self._world = named[0]

    @classmethod
    def read(cls, source: Path, world: str | None = None) -> Wit:
        """From a folder of WIT, or a component (whose only world is called `root`). Raises BuildError, Unsupported."""
        done = run_tool([wasm_tools(), "component", "wit", str(source), "--json"], f"reading {source.name}")
        return cls(json.loads(done), world)

    @cached_property
    def imports(self) -> Sequence[Interface]:
        """The interfaces that the world imports, in the order of their definition."""
        found = [item["interface"]["id"] for item in self._world["imports"].values() if "interface" in item]
        return [self._interface(index) for index in sorted(found)]

    @cached_property
    def bare_imports(self) -> Sequence[str]:
        """Names of imports that are no interfaces (a world's types are not meant)."""
        return [name for name, item in self._world["imports"].items() if "function" in item]

    @cached_property
    def exports(self) -> Sequence[Function]:
        """Functions that the world exports."""
        found = [item["function"] for item in self._world["exports"].values() if "function" in item]
        return [self._function(raw) for raw in found]

    def _interface(self, index: int) -> Interface:
        raw = self._raw["interfaces"][index]
        package, _, version = self._raw["packages"][raw["package"]]["name"].partition("@")
        module = f"{package}/{raw['name']}" + (f"@{version}" if version else "")
        types = tuple(self._typedef(each) for each in raw["types"].values())
        functions = tuple(self._function(each) for each in raw["functions"].values())
        return Interface(index, raw["name"], module, types, functions, _docs(raw))

    def _function(self, raw: Mapping[str, Any]) -> Function:
        kind: str | dict[str, int] = raw["kind"]
        name, resource = (kind, None) if isinstance(kind, str) else next(iter(kind.items()))
        if "async" in name:
            raise BuildError(f"{raw['name']} is an async function of WIT, which this world does not use.")
        return Function(
            raw["name"],
            name,
            None if resource is None else self._typedef(resource),
            tuple(Field(each["name"], self._type(each["type"])) for each in raw["params"]),
            self._optional(raw.get("result")),
            _docs(raw),
        )

    def _type(self, raw: str | int) -> Type:
        return raw if isinstance(raw, str) else self._typedef(raw)

    def _optional(self, raw: str | int | None) -> Type | None:
        return None if raw is None else self._type(raw)

    def _typedef(self, index: int) -> TypeDef:
        known = self._types.get(index)
        if known is None:
            raw = self._raw["types"][index]
            owner: dict[str, int] = raw.get("owner") or {}
            known = TypeDef(index, raw["name"] or "", owner.get("interface"), self._shape(raw["kind"]), _docs(raw))
            self._types[index] = known
        return known

    def _shape(self, kind: str | dict[str, Any]) -> Shape:
        name: str
        body: Any
        name, body = (kind, None) if isinstance(kind, str) else next(iter(kind.items()))
        match name:
            case "resource":
                return Resource()
            case "type":
                return Alias(self._type(body))
            case "list":
                return ListOf(self._type(body))
            case "option":
                return OptionOf(self._type(body))
            case "result":
                return ResultOf(self._optional(body.get("ok")), self._optional(body.get("err")))
            case "tuple":
                return TupleOf(tuple(self._type(each) for each in body["types"]))
            case "handle":
                kinds = {"own": Own, "borrow": Borrow}
                return next(kinds[each](self._typedef(resource)) for each, resource in body.items())
            case "record":
                return Record(self._fields(body["fields"]))
            case "variant":
                return Variant(self._fields(body["cases"]))
            case "enum":
                return Enum(self._fields(body["cases"]))
            case "flags":
                return Flags(self._fields(body["flags"]))
            case _:
                raise BuildError(f"The WIT has a {name}, which this world does not use.")

    def _fields(self, raw: Sequence[Mapping[str, Any]]) -> tuple[Field, ...]:
        return tuple(Field(each["name"], self._optional(each.get("type")), _docs(each)) for each in raw)


def _docs(raw: Mapping[str, Any]) -> str:
    docs: dict[str, str] = raw.get("docs") or {}
    return docs.get("contents") or ""
