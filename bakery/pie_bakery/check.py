"""Whether a component fits the world of this installation."""

from __future__ import annotations

from pathlib import Path

from pie_wire.errors import BadProgram

from pie_bakery.folders import sdk_folder
from pie_bakery.wit import (
    Alias,
    Borrow,
    Enum,
    Field,
    Flags,
    Function,
    ListOf,
    OptionOf,
    Own,
    Record,
    Resource,
    ResultOf,
    TupleOf,
    Type,
    Variant,
    Wit,
)

WORLD = "inferlet"
_RUN = "func(input: string) -> result<string, string>"


def check_component(path: Path) -> None:
    """Raise BadProgram, naming the first import that the installed WIT does not offer or offers with other types, or
    that `run` is not exported. Imports of WASI 0.2 are fine: programs find it inert.
    """
    component = Wit.read(path)
    offered = offered_functions()
    packages = {module.partition("/")[0] for module, _ in offered}
    if component.bare_imports:
        raise BadProgram(f"The component imports {component.bare_imports[0]!r}, which is no interface.")
    for interface in component.imports:
        if interface.module.startswith("wasi:") and "@0.2." in interface.module:
            continue
        if interface.module.partition("/")[0] not in packages:
            raise BadProgram(
                f"The component imports {interface.module}, which is not offered: only {sorted(packages)} is."
            )
        for function in interface.functions:
            wanted, have = signature(function), offered.get((interface.module, function.name))
            if have is None:
                raise BadProgram(
                    f"The component imports {interface.module}#{function.name}, which this version does not offer."
                )
            if have != wanted:
                raise BadProgram(
                    f"The component imports {interface.module}#{function.name} as {wanted}, but this version offers "
                    f"{have}. Build it again with this version."
                )
    exported = {each.name: signature(each) for each in component.exports}
    if exported.get("run") != _RUN:
        raise BadProgram(f"The component exports no run: {_RUN}. It has {exported or 'no exports'}.")


def offered_functions() -> dict[tuple[str, str], str]:
    """Signatures by module and function, of the installed WIT."""
    world = Wit.read(sdk_folder() / "wit", WORLD)
    return {(each.module, function.name): signature(function) for each in world.imports for function in each.functions}


def signature(function: Function) -> str:
    """A function's type as text, with every named type spelled out."""
    params = ", ".join(f"{each.name}: {_type(each.type)}" for each in function.params)
    return f"func({params})" + (f" -> {_type(function.result)}" if function.result is not None else "")


def _type(type_: Type | None) -> str:
    if type_ is None or isinstance(type_, str):
        return type_ or "_"
    match type_.shape:
        case Alias(target):
            return _type(target)
        case ListOf(element):
            return f"list<{_type(element)}>"
        case OptionOf(payload):
            return f"option<{_type(payload)}>"
        case ResultOf(ok, error):
            return f"result<{_type(ok)}, {_type(error)}>"
        case TupleOf(items):
            return f"tuple<{', '.join(map(_type, items))}>"
        case Own(resource):
            return _type(resource)
        case Borrow(resource):
            return f"borrow<{_type(resource)}>"
        case Resource():
            return type_.name
        case Record(fields):
            return f"record {{{_fields(fields)}}}"
        case Variant(cases):
            return f"variant {{{_fields(cases)}}}"
        case Enum(cases):
            return f"enum {{{_fields(cases)}}}"
        case Flags(names):
            return f"flags {{{_fields(names)}}}"


def _fields(fields: tuple[Field, ...]) -> str:
    return ", ".join(each.name if each.type is None else f"{each.name}: {_type(each.type)}" for each in fields)
