"""WIT to Rust: the modules of an SDK that call the host.

The canonical ABI itself is written once, in the crate's `abi` module, by traits and macros. What is generated is types,
the macros' arguments, and one function for each of the world's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pie_bakery.tools import BuildError
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

_PRIMITIVES = {
    **{name: name for name in ("bool", "u8", "u16", "u32", "u64", "f32", "f64", "char")},
    **{f"s{bits}": f"i{bits}" for bits in (8, 16, 32, 64)},
    "string": "String",
}
_CORE = {"u64": "i64", "s64": "i64", "f32": "f32", "f64": "f64"}
_KEYWORDS = frozenset(
    [
        "abstract",
        "as",
        "async",
        "await",
        "become",
        "box",
        "break",
        "const",
        "continue",
        "do",
        "dyn",
        "else",
        "enum",
        "extern",
        "false",
        "final",
        "fn",
        "for",
        "gen",
        "if",
        "impl",
        "in",
        "let",
        "loop",
        "macro",
        "match",
        "mod",
        "move",
        "mut",
        "override",
        "priv",
        "pub",
        "ref",
        "return",
        "static",
        "struct",
        "trait",
        "true",
        "try",
        "type",
        "typeof",
        "unsafe",
        "unsized",
        "use",
        "virtual",
        "where",
        "while",
        "yield",
    ]
)
_ALLOWED = "#![allow(dead_code, clashing_extern_declarations, clippy::all)]"
"""Functions of one name in several interfaces do not clash: the linker tells them apart by their module."""
_MAX_FLAT = 16
_GETTERS = ("get", "next", "read")
"""What the getter of a waitable is called."""
_MAX_ITEMS = 18
"""The longest tuple that the `abi` module knows."""


def rust_bindings(wit: Wit) -> str:
    """The text of `bindings.rs`. Raises BuildError for what this generator does not do."""
    if wit.bare_imports:
        raise BuildError(f"The world imports {wit.bare_imports[0]!r}, which is no interface.")
    names = [each.name for each in wit.imports]
    if len(set(names)) != len(names):
        raise BuildError("Two interfaces of the world have the same name.")
    lines = [
        "// Generated from the WIT world: edits are lost.",
        _ALLOWED,
        "",
    ]
    for interface in wit.imports:
        lines += [*_documentation(interface.docs, 0), *_Module(interface, wit.imports).lines(), ""]
    return "\n".join(lines)


class _Module:
    """One interface as a module."""

    def __init__(self, interface: Interface, world: Sequence[Interface]) -> None:
        self._interface = interface
        self._modules = {each.index: _snake(each.name) for each in world}

    def lines(self) -> Iterator[str]:
        yield f"pub mod {_snake(self._interface.name)} {{"
        yield "    use crate::abi;"
        for typedef in self._interface.types:
            yield ""
            yield from self._typedef(typedef)
        for function in self._interface.functions:
            if function.resource is None:
                yield ""
                yield from self._function(function, 1)
        for typedef in self._interface.types:
            methods = [each for each in self._interface.functions if each.resource is typedef]
            if methods:
                yield from self._methods(typedef, methods)
        yield "}"

    def _methods(self, resource: TypeDef, methods: Sequence[Function]) -> Iterator[str]:
        yield ""
        yield f"    impl {_camel(resource.name)} {{"
        for index, method in enumerate(methods):
            if index:
                yield ""
            yield from self._function(method, 2)
        yield "    }"
        named = {each.short_name: each for each in methods if each.kind == "method"}
        getter = next((named[each] for each in _GETTERS if each in named), None)
        if "id" not in named or getter is None or len(getter.params) != 1 or getter.result is None:
            return
        awaited = base(getter.result)
        if isinstance(awaited, TypeDef) and isinstance(awaited.shape, OptionOf):
            yield ""
            yield f"    impl crate::wait::Waitable for {_camel(resource.name)} {{"
            yield f"        type Output = {self._type(awaited.shape.payload)};"
            yield "        fn id(&self) -> u32 {"
            yield "            self.id()"
            yield "        }"
            yield "        fn poll(&self) -> Option<Self::Output> {"
            yield f"            self.{_snake(getter.short_name)}()"
            yield "        }"
            yield "    }"

    def _typedef(self, typedef: TypeDef) -> Iterator[str]:
        name = _camel(typedef.name)
        yield from _documentation(typedef.docs, 1)
        match typedef.shape:
            case Resource():
                yield "    #[derive(Debug)]"
                yield f"    pub struct {name} {{"
                yield "        handle: ::std::cell::Cell<u32>,"
                yield "    }"
                yield f'    resource!({name}, "{self._interface.module}", "[resource-drop]{typedef.name}");'
            case Record(fields):
                yield "    #[derive(Debug)]" if _owns(typedef) else "    #[derive(Debug, Clone, PartialEq)]"
                yield f"    pub struct {name} {{"
                for field in fields:
                    yield from _documentation(field.docs, 2)
                    yield f"        pub {_snake(field.name)}: {self._payload(field)},"
                yield "    }"
                inner = ", ".join(f"{_snake(field.name)}: {self._payload(field)}" for field in fields)
                yield f"    record!({name} {{ {inner} }});"
            case Variant(cases):
                yield "    #[derive(Debug)]" if _owns(typedef) else "    #[derive(Debug, Clone, PartialEq)]"
                yield from self._cases(name, cases)
                yield f"    variant!({name}, {_tag(len(cases))}, {{ {self._numbered(cases)} }});"
            case Enum(cases):
                yield "    #[derive(Debug, Clone, Copy, PartialEq, Eq)]"
                yield from self._cases(name, cases)
                yield f"    enumeration!({name}, {_tag(len(cases))}, {{ {self._numbered(cases)} }});"
            case Flags(names):
                bits = "u8" if len(names) <= 8 else "u16" if len(names) <= 16 else "u32"
                inner = ", ".join(f"{index} => {_upper(each.name)}" for index, each in enumerate(names))
                yield "    #[derive(Debug, Clone, Copy, PartialEq, Eq)]"
                yield f"    pub struct {name}(pub {bits});"
                yield f"    flags!({name}, {bits}, {{ {inner} }});"
            case Alias(target):
                yield f"    pub type {name} = {self._type(target)};"
            case _:
                yield f"    pub type {name} = {self._shape(typedef)};"

    def _cases(self, name: str, cases: Sequence[Field]) -> Iterator[str]:
        yield f"    pub enum {name} {{"
        for each in cases:
            yield from _documentation(each.docs, 2)
            yield f"        {_camel(each.name)}" + (f"({self._payload(each)})," if each.type is not None else ",")
        yield "    }"

    def _numbered(self, cases: Sequence[Field]) -> str:
        payloads = [f"({self._payload(each)})" if each.type is not None else "" for each in cases]
        return ", ".join(
            f"{i} => {_camel(each.name)}{payload}"
            for i, (each, payload) in enumerate(zip(cases, payloads, strict=True))
        )

    def _payload(self, field: Field) -> str:
        return "()" if field.type is None else self._type(field.type)

    def _type(self, type_: Type) -> str:
        """The Rust type that holds a value."""
        if isinstance(type_, str):
            return _primitive(type_)
        if type_.name:
            here = type_.owner is None or type_.owner == self._interface.index
            return _camel(type_.name) if here else f"super::{self._modules[type_.owner or 0]}::{_camel(type_.name)}"
        return self._shape(type_)

    def _shape(self, typedef: TypeDef) -> str:
        match typedef.shape:
            case ListOf(element):
                return f"Vec<{self._type(element)}>"
            case OptionOf(payload):
                return f"::core::option::Option<{self._type(payload)}>"
            case ResultOf(ok, error):
                left, right = ("()" if each is None else self._type(each) for each in (ok, error))
                return f"::core::result::Result<{left}, {right}>"
            case TupleOf(items):
                if len(items) > _MAX_ITEMS:
                    raise BuildError(f"A tuple has more than {_MAX_ITEMS} items.")
                return "(" + "".join(f"{self._type(each)}, " for each in items) + ")"
            case Own(resource):
                return self._type(resource)
            case Borrow(resource):
                return f"&{self._type(resource)}"
            case _:
                raise BuildError(f"A {type(typedef.shape).__name__} has no name.")

    def _parameter(self, type_: Type) -> str:
        """The Rust type that a function takes: borrowed where the host only reads it."""
        plain = base(type_)
        if isinstance(plain, str):
            return "&str" if plain == "string" else _primitive(plain)
        match plain.shape:
            case ListOf(element):
                return f"&[{self._type(element)}]"
            case OptionOf(payload):
                return f"::core::option::Option<{self._parameter(payload)}>"
            case Record() | Variant() if not _owns(plain):
                return f"&{self._type(type_)}"
            case _:
                return self._type(type_)

    def _function(self, function: Function, depth: int) -> Iterator[str]:
        indent = "    " * depth
        method = function.kind == "method"
        params = function.params[1:] if method else function.params
        taken = [f"{_snake(each.name)}: {self._parameter(each.type or 'bool')}" for each in params]
        values = ["self"] * method + [_snake(each.name) for each in params]
        result = function.result
        answer = "" if result is None else f" -> {self._type(result)}"
        yield from _documentation(function.docs, depth)
        name = _snake(function.short_name or "new")
        yield f"{indent}pub fn {name}({', '.join(['&self'] * method + taken)}){answer} {{"
        yield from (f"{indent}    {line}" for line in self._body(function, values))
        yield f"{indent}}}"

    def _body(self, function: Function, values: Sequence[str]) -> Iterator[str]:
        core = [word for each in function.params for word in flat(each.type or "bool")]
        returned = [] if function.result is None else flat(function.result)
        spilled = len(core) > _MAX_FLAT
        if spilled and len(values) > _MAX_ITEMS:
            raise BuildError(f"{function.name} has more than {_MAX_ITEMS} parameters.")
        through_memory = len(returned) > 1
        wasm = (["*mut u8"] if spilled else core) + ["*mut u8"] * through_memory
        signature = ", ".join(f"_: {each}" for each in wasm)
        arrow = f" -> {returned[0]}" if len(returned) == 1 else ""
        yield f'#[link(wasm_import_module = "{self._interface.module}")]'
        yield 'extern "C" {'
        yield f'    #[link_name = "{function.name}"]'
        yield f"    fn import({signature}){arrow};"
        yield "}"
        arguments: list[str] = []
        if values:
            yield "let mut arena = abi::Arena::default();"
            yield f"let values = ({', '.join(values)}{',' if len(values) == 1 else ''});"
            if spilled:
                yield "let parameters = arena.store(&values);"
                arguments.append("parameters")
            else:
                yield "let flat = abi::Flat::of(&values, &mut arena);"
                arguments += [f"flat.{word}({index})" for index, word in enumerate(core)]
        if function.result is None:
            yield f"unsafe {{ import({', '.join(arguments)}) }}"
            return
        result = self._type(function.result)
        if through_memory:
            yield f"unsafe {{ returned!({result}, |memory| import({', '.join([*arguments, 'memory'])})) }}"
        else:
            yield f"unsafe {{ abi::from_core::<{result}>(import({', '.join(arguments)})) }}"


def flat(type_: Type) -> list[str]:
    """The core types that a value flattens into, as the canonical ABI has it."""
    if isinstance(type_, str):
        return ["i32", "i32"] if type_ == "string" else [_CORE.get(type_, "i32")]
    match type_.shape:
        case Alias(target):
            return flat(target)
        case ListOf():
            return ["i32", "i32"]
        case Record(fields):
            return [word for each in fields for word in flat(each.type or "bool")]
        case TupleOf(items):
            return [word for each in items for word in flat(each)]
        case OptionOf(payload):
            return ["i32", *flat(payload)]
        case ResultOf(ok, error):
            return ["i32", *_joined([ok, error])]
        case Variant(cases):
            return ["i32", *_joined([each.type for each in cases])]
        case _:
            return ["i32"]


def _joined(payloads: Sequence[Type | None]) -> list[str]:
    words: list[str] = []
    for payload in payloads:
        for index, word in enumerate([] if payload is None else flat(payload)):
            if index == len(words):
                words.append(word)
            elif words[index] != word:
                words[index] = "i32" if {words[index], word} == {"i32", "f32"} else "i64"
    return words


def _owns(type_: Type | None) -> bool:
    """Whether a value holds handles, which passing gives away (and which cannot be cloned or compared)."""
    if type_ is None or isinstance(type_, str):
        return False
    match type_.shape:
        case Own() | Borrow() | Resource():
            return True
        case Alias(target) | ListOf(target) | OptionOf(target):
            return _owns(target)
        case ResultOf(ok, error):
            return _owns(ok) or _owns(error)
        case TupleOf(items):
            return any(map(_owns, items))
        case Record(fields) | Variant(fields):
            return any(_owns(each.type) for each in fields)
        case _:
            return False


def _primitive(name: str) -> str:
    if name not in _PRIMITIVES:
        raise BuildError(f"The WIT has the type {name}, which this world does not use.")
    return _PRIMITIVES[name]


def _tag(cases: int) -> str:
    return "u8" if cases <= 1 << 8 else "u16" if cases <= 1 << 16 else "u32"


def _camel(name: str) -> str:
    camel = "".join(part[:1].upper() + part[1:] for part in name.split("-"))
    return "Self_" if camel == "Self" else camel


def _upper(name: str) -> str:
    return name.replace("-", "_").upper()


def _snake(name: str) -> str:
    snake = name.replace("-", "_").lower()
    if snake in ("self", "super", "crate"):
        return snake + "_"
    return f"r#{snake}" if snake in _KEYWORDS else snake


def _documentation(text: str, depth: int) -> Iterator[str]:
    for line in text.splitlines():
        yield f"{'    ' * depth}/// {line}".rstrip()
