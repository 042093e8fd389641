"""TypeScript and JavaScript: bundled by esbuild, run by QuickJS inside the component."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from pie_bakery.folders import sdk_folder
from pie_bakery.node_tools import node_tools
from pie_bakery.project import Project
from pie_bakery.tools import run_tool

WORLD = "inferlet"

_TARGET = "es2016"
"""The last one without async functions: they become generators over the SDK's own Promise."""


def build_typescript(project: Project, output: Path, home: Path) -> None:
    """Raises BuildError, Unsupported."""
    tools = node_tools(home)
    sdk = sdk_folder()
    source = sdk / "typescript" / "src"
    with tempfile.TemporaryDirectory() as scratch:
        entry = Path(scratch) / "entry.ts"
        bundle = Path(scratch) / f"{project.name}.js"
        component = Path(scratch) / "component.wasm"
        entry.write_text(_entry(source, project.entry))
        command = [
            *(*tools.esbuild, str(entry), "--bundle", "--format=esm", f"--target={_TARGET}", "--supported:bigint=true"),
            *("--platform=neutral", "--main-fields=module,main", "--external:pie:*", "--log-level=warning"),
            *(f"--alias:inferlet={source / 'index.ts'}", f"--outfile={bundle}"),
        ]
        run_tool(command, f"bundling {project.name}", cwd=project.folder)
        command = [
            *(*tools.componentize, "--wit", str(sdk / "wit"), "--world", WORLD, "--js", str(bundle)),
            *("--sync", "--stub-wasi", "--output", str(component)),
        ]
        run_tool(command, f"making the component of {project.name}", cwd=Path(scratch))
        output.write_bytes(component.read_bytes())


def _entry(sdk: Path, main: Path) -> str:
    """The module that the component is made from. The promises come first: all later code must see them."""
    imports = [
        f"import {json.dumps(str(sdk / 'promise.ts'))};",
        f"import {{ run as start }} from {json.dumps(str(sdk / 'entry.ts'))};",
        f"import * as program from {json.dumps(str(main.resolve()))};",
    ]
    return "\n".join([*imports, "export const run = (input: string): string => start(program, input);", ""])
