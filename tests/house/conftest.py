"""The layout of the repository as its checks see it."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
GUEST = (
    "sdk/pie_sdk/",
    "inferlets/pie_inferlets/",
    "bench/pie_bench/inferlets/",
    "services/runner/pie_runner/bench/guests/",
)
"""Programs that run inside Wasm: their imports are the guest's."""


@dataclass(frozen=True)
class Import:
    """One import statement's target. `lazy` when it is inside a function or under TYPE_CHECKING."""

    module: str
    line: int
    lazy: bool
    typing_only: bool


@dataclass(frozen=True)
class Module:
    """A host-side source file of one of our packages."""

    name: str
    path: Path
    imports: tuple[Import, ...]

    @property
    def package(self) -> str:
        return self.name.partition(".")[0]

    def __str__(self) -> str:
        return str(self.path.relative_to(ROOT))


def _imports(tree: ast.AST, *, lazy: bool = False, typing_only: bool = False) -> Iterator[Import]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, lazy, typing_only)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                yield Import("." * node.level + (node.module or ""), node.lineno, lazy, typing_only)
            else:
                yield from (
                    Import(f"{node.module}.{alias.name}", node.lineno, lazy, typing_only) for alias in node.names
                )
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield from _imports(node, lazy=True, typing_only=typing_only)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            yield from _imports(node, lazy=True, typing_only=True)
        else:
            yield from _imports(node, lazy=lazy, typing_only=typing_only)


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def project() -> dict[str, Any]:
    """pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="session")
def packages(project: dict[str, Any]) -> dict[str, Path]:
    """Folder of each of our import packages, by import name."""
    listed = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    return {Path(entry).name: ROOT / entry for entry in listed}


@pytest.fixture(scope="session")
def modules(packages: dict[str, Path]) -> tuple[Module, ...]:
    """Every host-side module of our packages with what it imports."""
    found: list[Module] = []
    for folder in packages.values():
        for path in sorted(folder.rglob("*.py")):
            if path.relative_to(ROOT).as_posix().startswith(GUEST) and path.parent not in packages.values():
                continue
            parts = path.relative_to(folder.parent).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found.append(Module(name, path, tuple(_imports(ast.parse(path.read_text(encoding="utf-8"))))))
    return tuple(found)
