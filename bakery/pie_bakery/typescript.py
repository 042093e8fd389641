"""TypeScript and JavaScript: checked by tsc, bundled by esbuild, run by QuickJS inside the component."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from pie_bakery.folders import place, sdk_folder, tree
from pie_bakery.node_tools import NodeTools, node_tools
from pie_bakery.project import Project
from pie_bakery.tools import run_tool
from pie_bakery.typescript_types import typescript_types
from pie_bakery.wit import Wit

WORLD = "inferlet"
TSCONFIG = "tsconfig.json"

_TARGET = "es2016"
"""The last one without async functions: they become generators over the SDK's own Promise."""


def write_typescript_sdk(project: Project) -> None:
    """Put the SDK's sources and the declarations of the installed WIT into the project's SDK folder. A program without
    a tsconfig.json gets one that knows them.
    """
    sdk = sdk_folder()
    types = typescript_types(Wit.read(sdk / "wit", WORLD))
    place(tree(sdk / "typescript" / "src", "*.ts") | {"wit.d.ts": types.encode()}, project.sdk / "inferlet")
    if not (project.folder / TSCONFIG).exists():
        (project.folder / TSCONFIG).write_bytes((sdk / "typescript" / "tsconfig.program.json").read_bytes())


def build_typescript(project: Project, output: Path, home: Path) -> None:
    """Raises BuildError, Unsupported."""
    tools = node_tools(home)
    write_typescript_sdk(project)
    if project.entry.suffix == ".ts":
        run_tool([*tools.tsc, "--noEmit", "--project", str(project.folder)], f"checking the types of {project.name}")
    with tempfile.TemporaryDirectory() as scratch:
        component = _componentize(project, tools, Path(scratch))
        output.write_bytes(component.read_bytes())


def _componentize(project: Project, tools: NodeTools, scratch: Path) -> Path:
    sdk = sdk_folder()
    entry, bundle, component = scratch / "entry.ts", scratch / f"{project.name}.js", scratch / "component.wasm"
    entry.write_text(_entry(sdk / "typescript" / "src", project.entry))
    command = [
        *(*tools.esbuild, str(entry), "--bundle", "--format=esm", f"--target={_TARGET}", "--supported:bigint=true"),
        *("--platform=neutral", "--main-fields=module,main", "--external:pie:*", "--log-level=warning"),
        *(f"--alias:inferlet={sdk / 'typescript' / 'src' / 'index.ts'}", f"--outfile={bundle}"),
    ]
    run_tool(command, f"bundling {project.name}", cwd=project.folder)
    command = [
        *(*tools.componentize, "--wit", str(sdk / "wit"), "--world", WORLD, "--js", str(bundle)),
        *("--sync", "--stub-wasi", "--output", str(component)),
    ]
    run_tool(command, f"making the component of {project.name}", cwd=scratch)
    return component


def _entry(sdk: Path, main: Path) -> str:
    """The module that the component is made from. The promises come first: all later code must see them."""
    imports = [
        f"import {json.dumps(str(sdk / 'promise.ts'))};",
        f"import {{ run as start }} from {json.dumps(str(sdk / 'entry.ts'))};",
        f"import * as program from {json.dumps(str(main.resolve()))};",
    ]
    return "\n".join([*imports, "export const run = (input: string): string => start(program, input);", ""])
