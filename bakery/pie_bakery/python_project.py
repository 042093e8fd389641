"""Python: the project, its pure-Python dependencies and CPython in one component."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from pie_bakery.folders import place, sdk_folder, tree
from pie_bakery.project import Project
from pie_bakery.python_image import make_immortal
from pie_bakery.python_runtime import require_componentize
from pie_bakery.tools import run_tool

WORLD = "inferlet"
REQUIREMENTS = "requirements.txt"

_PYTHON_IN_COMPONENT = "3.14"


def write_python_sdk(project: Project) -> None:
    """Put the package `inferlet` into the project's SDK folder, for editors: a build takes the installed one."""
    place(tree(sdk_folder() / "python" / "inferlet", "*.py"), project.sdk / "inferlet")


def build_python(project: Project, output: Path) -> None:
    """Raises BuildError, Unsupported."""
    require_componentize()
    write_python_sdk(project)
    sdk = sdk_folder()
    with tempfile.TemporaryDirectory() as scratch:
        packages = Path(scratch) / "packages"
        component = Path(scratch) / "component.wasm"
        packages.mkdir()
        requirements = project.folder / REQUIREMENTS
        if requirements.is_file():
            _install(requirements, packages)
        command = [
            *(sys.executable, "-c", "import sys, componentize_py; sys.exit(componentize_py.script())"),
            *("-d", str(sdk / "wit"), "-w", WORLD, "componentize", "inferlet.built"),
            *("-p", str(project.entry.parent), "-p", str(packages), "-p", str(sdk / "python"), "-o", str(component)),
        ]
        run_tool(command, f"building {project.name}")
        make_immortal(component)
        shutil.copyfile(component, output)


def _install(requirements: Path, folder: Path) -> None:
    """Wheels that run everywhere: the component can load no native code."""
    command = [
        *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"),
        *("--requirement", str(requirements), "--target", str(folder), "--only-binary", ":all:"),
        *("--platform", "any", "--implementation", "py", "--abi", "none", "--python-version", _PYTHON_IN_COMPONENT),
    ]
    run_tool(command, f"installing {REQUIREMENTS} (pure-Python wheels only)")
