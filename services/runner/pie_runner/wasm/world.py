"""What this version offers to components: the types of every function of the WIT world.

Host functions are linked without types, so a component could import them with any; its imports are compared with this
list when it is compiled. The list is read off a component that imports the whole world:

    python -m pie_runner.wasm.world COMPONENT > services/runner/pie_runner/wasm/world.json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path

from wasmtime.component import Component

from pie_runner.wasm.engine import WasmEngine
from pie_runner.wasm.types import read_imports

World = Mapping[tuple[str, str], str]
"""Signature text by (interface without version, function)."""


@cache
def offered_world() -> World:
    """The world as this version was built with it."""
    text = files("pie_runner.wasm").joinpath("world.json").read_text()
    tree: dict[str, dict[str, str]] = json.loads(text)
    return {(interface, name): types for interface, functions in tree.items() for name, types in functions.items()}


def world_of(engine: WasmEngine, component: Component) -> World:
    """The `pie:inferlet` functions that a component imports."""
    imports = read_imports(component, engine.raw)
    return {key: str(types) for key, types in imports.functions.items() if key[0].startswith("pie:inferlet/")}


def to_json(world: World) -> str:
    """The form of world.json."""
    tree: dict[str, dict[str, str]] = {}
    for (interface, name), types in sorted(world.items()):
        tree.setdefault(interface, {})[name] = types
    return json.dumps(tree, indent=1) + "\n"


if __name__ == "__main__":
    _engine = WasmEngine()
    sys.stdout.write(to_json(world_of(_engine, Component(_engine.raw, Path(sys.argv[1]).read_bytes()))))
