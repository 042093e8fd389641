"""The distribution is what the folders are: every package listed, typed, importable and checked."""

from __future__ import annotations

import importlib
import re
import subprocess
import zipfile
from itertools import chain
from pathlib import Path
from typing import Any

import pytest


def test_every_package_on_disk_is_listed(root: Path, packages: dict[str, Path]):
    tracked = subprocess.run(
        ["git", "ls-files", "--", "*/pie_*/__init__.py"], cwd=root, capture_output=True, text=True, check=True
    ).stdout.split()
    roots = {Path(path).parent for path in tracked if re.fullmatch(r"(services/)?[a-z]+/pie_\w+/__init__\.py", path)}
    assert roots == {path.relative_to(root) for path in packages.values()}


def test_the_editable_install_covers_the_packages(project: dict[str, Any], packages: dict[str, Path], root: Path):
    folders = project["tool"]["hatch"]["build"]["dev-mode-dirs"]
    assert sorted(folders) == sorted(str(path.parent.relative_to(root)) for path in packages.values())


def test_every_package_is_typed_and_says_what_it_is(packages: dict[str, Path]):
    for name, folder in packages.items():
        assert (folder / "py.typed").is_file(), f"{folder} lacks py.typed"
        assert importlib.import_module(name).__doc__, f"{name} has no docstring"


def test_public_names_exist_and_are_documented(packages: dict[str, Path]):
    """Whatever a package lists in `__all__` is there, sorted, and has a docstring where it can have one."""
    for name in packages:
        module = importlib.import_module(name)
        public = getattr(module, "__all__", [])
        assert len(set(public)) == len(public)
        for each in public:
            value = getattr(module, each)
            if isinstance(value, type) or callable(value):
                assert value.__doc__, f"{name}.{each} has no docstring"


def test_only_the_edges_are_relaxed(root: Path, packages: dict[str, Path]):
    """Whole-file relaxations of the type checker are for ctypes and torch; elsewhere a line names its rule."""
    allowed = re.compile(r"services/(runner/pie_runner/wasm/ffi\.py|engine/pie_engine/(models|kernels)/)")
    relaxed: list[str] = []
    for folder in packages.values():
        for path in folder.rglob("*.py"):
            name = path.relative_to(root).as_posix()
            if re.search(r"^# pyright: ", path.read_text(encoding="utf-8"), re.MULTILINE) and not allowed.match(name):
                relaxed.append(name)
    assert relaxed == []


def test_the_pins_satisfy_the_requirements(root: Path, project: dict[str, Any]):
    """Exact pins of pyproject.toml and of the development constraints are the same ones."""
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", (root / "constraints" / "dev.txt").read_text(), re.MULTILINE))
    groups = [project["project"]["dependencies"], *project["project"]["optional-dependencies"].values()]
    for requirement in chain.from_iterable(groups):
        if match := re.match(r"([\w.-]+)==([^;\s]+)", requirement):
            assert pins[match[1]] == match[2]


@pytest.fixture(scope="session")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from hatchling.builders.wheel import WheelBuilder

    target = tmp_path_factory.mktemp("wheel")
    return Path(next(WheelBuilder(str(root)).build(directory=str(target), versions=["standard"])))


def test_the_wheel_holds_what_programs_need(wheel: Path, packages: dict[str, Path]):
    names = zipfile.ZipFile(wheel).namelist()
    assert wheel.name.endswith("-py3-none-any.whl")
    for package in packages:
        assert f"{package}/py.typed" in names
    assert any(re.fullmatch(r"pie_sdk/wit/.+\.wit", name) for name in names)
    assert any(re.fullmatch(r"pie_sdk/python/inferlet/\w+\.py", name) for name in names)
    assert any(re.fullmatch(r"pie_sdk/rust/src/abi/\w+\.rs", name) for name in names)
    assert any(re.fullmatch(r"pie_sdk/typescript/src/\w+\.ts", name) for name in names)
    assert "pie_bakery/node/package-lock.json" in names
    for language in ("python/main.py", "rust/src/lib.rs", "typescript/src/main.ts"):
        assert f"pie_bakery/templates/{language}.in" in names
    for builtin in ("hello", "text-completion", "parallel-generation", "chat"):
        assert f"pie_inferlets/{builtin}/Pie.toml" in names
        assert f"pie_inferlets/{builtin}/main.py" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_wheel_holds_nothing_else(wheel: Path, packages: dict[str, Path]):
    roots = {name.partition("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {name for name in roots if not name.endswith(".dist-info")} == set(packages)
    assert not [name for name in zipfile.ZipFile(wheel).namelist() if "__pycache__" in name or name.endswith(".cwasm")]
