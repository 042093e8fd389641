"""Rust: a crate with the SDK beside it, cargo, and a component around the core module."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pie_wire.errors import Unsupported

from pie_bakery.folders import place, sdk_folder, tree
from pie_bakery.project import Project
from pie_bakery.rust_bindings import rust_bindings
from pie_bakery.tools import BuildError, run_tool, wasm_tools
from pie_bakery.wit import Wit

TARGET = "wasm32-unknown-unknown"
WORLD = "inferlet"


@dataclass(frozen=True)
class RustToolchain:
    """A cargo whose rustc has a standard library for Wasm."""

    cargo: Path
    rustc: Path

    @classmethod
    def find(cls) -> RustToolchain:
        """The first on PATH, then rustup's. Raises Unsupported, naming how to get one."""
        folders = [*os.environ.get("PATH", "").split(os.pathsep), str(Path.home() / ".cargo" / "bin")]
        for folder in dict.fromkeys(Path(each) for each in folders if each):
            found = cls(folder / "cargo", folder / "rustc")
            if found.cargo.exists() and found.rustc.exists() and found.has_target:
                return found
        raise Unsupported(
            f"No Rust toolchain with the target {TARGET} was found. With rustup: rustup target add {TARGET}. "
            "On Debian: apt-get install rustc cargo libstd-rust-dev-wasm32 lld"
        )

    @property
    def has_target(self) -> bool:
        """Whether the standard library for Wasm is installed."""
        try:
            library = run_tool([str(self.rustc), "--print", "target-libdir", "--target", TARGET], "asking rustc")
        except BuildError:
            return False
        return any(Path(library.strip()).glob("libstd-*.rlib"))

    def compile(self, manifest: Path) -> Path:
        """The core module of a crate, by the path of its Cargo.toml. Raises BuildError."""
        command = [
            *(str(self.cargo), "build", "--release", "--target", TARGET),
            *("--manifest-path", str(manifest), "--message-format", "json-render-diagnostics"),
        ]
        said = run_tool(command, f"building {manifest.parent.name}", environment={"RUSTC": str(self.rustc)})
        return _module(said)


def write_rust_sdk(project: Project) -> None:
    """Put the crate `inferlet` into the project's SDK folder, with bindings of the installed WIT."""
    sdk = sdk_folder()
    bindings = rust_bindings(Wit.read(sdk / "wit", WORLD))
    crate = tree(sdk / "rust", "Cargo.toml") | tree(sdk / "rust", "src/**/*.rs")
    place(crate | {"src/bindings.rs": bindings.encode()}, project.sdk / "inferlet")


def build_rust(project: Project, output: Path) -> None:
    """Raises BuildError, Unsupported."""
    toolchain = RustToolchain.find()
    write_rust_sdk(project)
    make_component(toolchain.compile(project.entry), output, sdk_folder() / "wit", WORLD)


def make_component(module: Path, output: Path, wit: Path, world: str) -> None:
    """Wrap a core module that follows the canonical ABI. Raises BuildError, Unsupported."""
    with tempfile.TemporaryDirectory() as scratch:
        embedded = Path(scratch) / "embedded.wasm"
        component = Path(scratch) / "component.wasm"
        tool = wasm_tools()
        embed = [tool, "component", "embed", str(wit), str(module), "--world", world, "-o", str(embedded)]
        run_tool(embed, "describing the module")
        run_tool([tool, "component", "new", str(embedded), "-o", str(component)], "making the component")
        output.write_bytes(component.read_bytes())


def _module(said: str) -> Path:
    """The core module among what cargo says that it made."""
    made: list[str] = []
    for line in said.splitlines():
        message = json.loads(line)
        if message.get("reason") == "compiler-artifact" and "cdylib" in message["target"]["kind"]:
            made += [name for name in message["filenames"] if name.endswith(".wasm")]
    if not made:
        raise BuildError('The crate makes no module: it needs [lib] crate-type = ["cdylib"] in its Cargo.toml.')
    return Path(made[-1])
