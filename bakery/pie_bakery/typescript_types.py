"""WIT to TypeScript: declarations of the modules that a component's JavaScript imports."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pie_bakery.wit import (
    Alias,
    Borrow,
    Enum,
    Field,
    Flags,
    Function,
    Interface,
    ListOf,
    OptionOf,
    Own,
    Record,
    Resource,
    ResultOf,
    TupleOf,
    Type,
    TypeDef,
    Variant,
    Wit,
    base,
)

_KEYWORDS = frozenset(
    [
        "arguments",
        "await",
        "break",
        "case",
        "catch",
        "class",
        "const",
        "continue",
        "debugger",
        "default",
        "delete",
        "do",
        "else",
        "enum",
        "eval",
        "export",
        "extends",
        "false",
        "finally",
        "for",
        "function",
        "if",
        "implements",
        "import",
        "in",
        "instanceof",
        "interface",
        "let",
        "new",
        "null",
        "package",
        "private",
        "protected",
        "public",
        "return",
        "static",
        "super",
        "switch",
        "this",
        "throw",
        "true",
        "try",
        "typeof",
        "var",
        "void",
        "while",
        "with",
        "yield",
    ]
)


def typescript_types(wit: Wit) -> str:
    """The text of a declaration file for the world's imports."""
    lines = ["// Generated from the WIT world: edits are lost.", ""]
    for interface in wit.imports:
        lines += [*_documentation(interface.docs, 0), *_Module(interface, wit.imports).lines(), ""]
    return "\n".join(lines)


class _Module:
    """One interface as an ambient module."""

    def __init__(self, interface: Interface, world: Sequence[Interface]) -> None:
        self._interface = interface
        self._modules = {each.index: each.module for each in world}

    def lines(self) -> Iterator[str]:
        yield f'declare module "{self._interface.module}" {{'
        for typedef in self._interface.types:
            yield from _documentation(typedef.docs, 1)
            yield from self._typedef(typedef)
        for function in self._interface.functions:
            if function.resource is None:
                yield from _documentation(function.docs, 1)
                yield f"  export function {_camel(function.name)}{self._signature(function)};"
        yield "}"

    def _typedef(self, typedef: TypeDef) -> Iterator[str]:
        name = _pascal(typedef.name)
        match typedef.shape:
            case Resource():
                yield f"  export class {name} {{"
                methods = [each for each in self._interface.functions if each.resource is typedef]
                if not any(each.kind == "constructor" for each in methods):
                    yield "    private constructor();"
                for method in methods:
                    yield from _documentation(method.docs, 2)
                    static = "static " if method.kind == "static" else ""
                    yield f"    {static}{_camel(method.short_name) or 'constructor'}{self._signature(method)};"
                yield "    /** Frees what it stands for. */"
                yield "    [Symbol.dispose](): void;"
                yield "  }"
            case Record(fields):
                yield f"  export interface {name} {{"
                for field in fields:
                    yield from _documentation(field.docs, 2)
                    optional = "?" if _is_option(field.type) else ""
                    yield f"    {_camel(field.name)}{optional}: {self._type(field.type)};"
                yield "  }"
            case Variant(cases):
                yield f"  export type {name} ="
                for index, case in enumerate(cases):
                    payload = "" if case.type is None else f"; val: {self._type(case.type)}"
                    yield from _documentation(case.docs, 2)
                    yield f'    | {{ tag: "{case.name}"{payload} }}' + (";" if index == len(cases) - 1 else "")
            case Enum(cases):
                yield f"  export type {name} = {' | '.join(_quoted(cases))};"
            case Flags(names):
                inner = "; ".join(f"{_camel(each.name)}: boolean" for each in names)
                yield f"  export type {name} = {{ {inner} }};"
            case Alias(target):
                yield f"  export type {name} = {self._type(target)};"
            case _:
                yield f"  export type {name} = {self._shape(typedef)};"

    def _signature(self, function: Function) -> str:
        params = function.params[1:] if function.kind == "method" else function.params
        shown = ", ".join(f"{_parameter(each.name)}: {self._type(each.type)}" for each in params)
        if function.kind == "constructor":
            return f"({shown})"
        result = base(function.result) if function.result is not None else None
        if isinstance(result, TypeDef) and isinstance(result.shape, ResultOf):
            # An error is thrown.
            return f"({shown}): {self._type(result.shape.ok)}"
        return f"({shown}): {self._type(function.result)}"

    def _type(self, type_: Type | None) -> str:
        if type_ is None:
            return "void"
        if isinstance(type_, str):
            return {"bool": "boolean", "char": "string", "string": "string"}.get(type_, "number")
        if type_.name:
            owner = type_.owner
            here = owner is None or owner == self._interface.index
            return _pascal(type_.name) if here else f'import("{self._modules[owner or 0]}").{_pascal(type_.name)}'
        return self._shape(type_)

    def _shape(self, typedef: TypeDef) -> str:
        match typedef.shape:
            case ListOf("u8"):
                return "Uint8Array"
            case ListOf(element):
                return f"Array<{self._type(element)}>"
            case OptionOf(payload) if _is_option(payload):
                return f'{{ tag: "some"; val: {self._type(payload)} }} | {{ tag: "none" }}'
            case OptionOf(payload):
                return f"{self._type(payload)} | null"
            case ResultOf(ok, error):
                sides = [f'{{ tag: "ok"{self._payload(ok)} }}', f'{{ tag: "err"{self._payload(error)} }}']
                return " | ".join(sides)
            case TupleOf(items):
                return f"[{', '.join(map(self._type, items))}]"
            case Own(resource) | Borrow(resource):
                return self._type(resource)
            case _:
                return "never"

    def _payload(self, type_: Type | None) -> str:
        return "" if type_ is None else f"; val: {self._type(type_)}"


def _is_option(type_: Type | None) -> bool:
    plain = None if type_ is None else base(type_)
    return isinstance(plain, TypeDef) and isinstance(plain.shape, OptionOf)


def _quoted(cases: Sequence[Field]) -> list[str]:
    return [f'"{each.name}"' for each in cases]


def _pascal(name: str) -> str:
    return "".join(part[:1].upper() + part[1:] for part in name.split("-"))


def _camel(name: str) -> str:
    pascal = _pascal(name)
    return pascal[:1].lower() + pascal[1:]


def _parameter(name: str) -> str:
    camel = _camel(name)
    return camel + "_" if camel in _KEYWORDS else camel


def _documentation(text: str, depth: int) -> Iterator[str]:
    if text:
        indent = "  " * depth
        lines = [line.replace("*/", "* /").rstrip() for line in text.splitlines()]
        if len(lines) == 1:
            yield f"{indent}/** {lines[0]} */"
        else:
            yield f"{indent}/**"
            yield from (f"{indent} * {line}".rstrip() for line in lines)
            yield f"{indent} */"
