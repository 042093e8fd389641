"""A compiled component, checked and ready to be run any number of times."""

from __future__ import annotations

from pathlib import Path

from pie_wire.errors import BadProgram
from wasmtime import WasmtimeError
from wasmtime.component import Component

from pie_runner.wasm.cache import CodeCache
from pie_runner.wasm.engine import WasmEngine
from pie_runner.wasm.types import Imports, Prim, ResultOf, Signature, base_name, read_imports
from pie_runner.wasm.values import Codec
from pie_runner.wasm.world import World

RUN = Signature((Prim("string"),), ResultOf(Prim("string"), Prim("string")))

# What WASI 0.2 offers to any guest; all of it inert (no files, no network, no environment).
_WASI = frozenset({"wasi:cli", "wasi:clocks", "wasi:filesystem", "wasi:io", "wasi:random", "wasi:sockets"})


class Program:
    """A component with the converters of its imports."""

    def __init__(self, engine: WasmEngine, component: Component, offered: World) -> None:
        """Raises BadProgram when the component wants what `offered` does not have, or exports no `run`."""
        imports = read_imports(component, engine.raw)
        check_imports(imports, offered)
        self.component = component
        self.imports = imports
        self.codecs = {key: Codec(signature) for key, signature in imports.functions.items()}

    @classmethod
    def load(cls, engine: WasmEngine, path: Path, cache: CodeCache, offered: World) -> Program:
        """Load compiled code that `cache` vouches for: wasmtime trusts it completely. Raises BadProgram."""
        if not cache.is_ours(path):
            raise BadProgram(f"{path} was not compiled by this installation and is not run. Compile the program again.")
        try:
            component = Component.deserialize_file(engine.raw, str(path))
        except WasmtimeError as exc:
            raise BadProgram(f"Compiled code at {path} does not load: {exc}") from exc
        return cls(engine, component, offered)


def check_imports(imports: Imports, offered: World) -> None:
    """Raise BadProgram, naming the first import that this host does not offer, or offers with other types."""
    for name in imports.others:
        raise BadProgram(f"The component imports {name!r}, which is no interface; only interfaces are offered.")
    packages = {interface.rpartition("/")[0] for interface, _ in offered}
    for name in imports.interfaces:
        package = base_name(name).rpartition("/")[0]
        if package not in packages and package not in _WASI:
            raise BadProgram(
                f"The component imports {name!r}, which is not offered here. Offered: {sorted(packages)}, WASI 0.2."
            )
        if package in _WASI and "@0.2." not in name:
            raise BadProgram(f"The component imports {name!r}; of WASI only version 0.2 is offered.")
    for (interface, function), wanted in imports.functions.items():
        if interface.rpartition("/")[0] not in packages:
            continue
        have = offered.get((interface, function))
        if have is None:
            raise BadProgram(f"The component imports {interface}#{function}, which this version does not offer.")
        if have != str(wanted):
            raise BadProgram(
                f"The component imports {interface}#{function} with other types than this version offers: "
                f"{wanted} instead of {have}. Build it against the current WIT."
            )
    run = imports.exports.get("run")
    if run is None:
        raise BadProgram("The component does not export `run`; build it for the world pie:inferlet/inferlet.")
    if run != RUN:
        raise BadProgram(f"The component exports `run` as {run} instead of {RUN}.")
