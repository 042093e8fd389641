"""A source folder becomes a component, whatever its language."""

from __future__ import annotations

from pathlib import Path

from pie_bakery.check import check_component
from pie_bakery.project import Project, read_project
from pie_bakery.python_project import build_python
from pie_bakery.rust import build_rust
from pie_bakery.typescript import build_typescript


def build(folder: Path, output: Path | None, home: Path) -> Path:
    """Build the program in a folder and check the component against the installed world; its path.

    Raises BuildError (the compiler's words), BadProgram (it asks for what the world does not offer), Unsupported (a
    toolchain is missing; the message says how to get it), BadField and NotFound (the folder is no project).
    """
    project = read_project(folder)
    target = output or project.component
    target.parent.mkdir(parents=True, exist_ok=True)
    _build(project, target, home)
    check_component(target)
    return target


def _build(project: Project, target: Path, home: Path) -> None:
    match project.language:
        case "rust":
            build_rust(project, target)
        case "typescript":
            build_typescript(project, target, home)
        case "python":
            build_python(project, target)
