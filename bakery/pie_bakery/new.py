"""Beginning a program: a folder that can be built as it is."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

from pie_wire.errors import BadField, Conflict

from pie_bakery.folders import tree
from pie_bakery.project import Language, Project, read_project
from pie_bakery.python_project import write_python_sdk
from pie_bakery.rust import write_rust_sdk
from pie_bakery.typescript import write_typescript_sdk

_NAME = re.compile(r"[a-z](?:[a-z0-9_-]{0,62}[a-z0-9])?")
_SUFFIX = ".in"


def new(folder: Path, language: Language) -> Project:
    """A program called after the folder, which must not exist or be empty, with the SDK beside it for editors.

    Raises BadField, Conflict; Unsupported without wasm-tools.
    """
    name = folder.resolve().name
    if not _NAME.fullmatch(name):
        raise BadField(f"{name!r} is no name for a program: lower-case letters, digits, '-' and '_', a letter first.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Conflict(f"{folder} exists already; name a folder that does not.")
    templates = Path(str(files("pie_bakery"))) / "templates"
    sources = tree(templates, f"*{_SUFFIX}") | tree(templates / language, f"**/*{_SUFFIX}")
    for path, text in sources.items():
        target = folder / path.removesuffix(_SUFFIX)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(text.replace(b"{{name}}", name.encode()).replace(b"{{language}}", language.encode()))
    project = read_project(folder)
    write_sdk(project)
    return project


def write_sdk(project: Project) -> None:
    """What editors need of the SDK. Raises Unsupported without wasm-tools."""
    match project.language:
        case "rust":
            write_rust_sdk(project)
        case "typescript":
            write_typescript_sdk(project)
        case "python":
            write_python_sdk(project)
