"""The bakery's commands, which `pie` has too: `new`, `build` and `check`."""

from __future__ import annotations

from pathlib import Path

import click
from pie_wire.config import pie_home

from pie_bakery.build import build as build_project
from pie_bakery.check import check_component
from pie_bakery.new import new as new_project
from pie_bakery.project import LANGUAGES, Language


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), metavar="NAME")
@click.option(
    "--lang", "language", type=click.Choice(LANGUAGES), default="python", show_default=True, help="What to write it in."
)
def new(folder: Path, language: Language) -> None:
    """Begin a program: a folder with a manifest and a source to change, ready to be built."""
    project = new_project(folder, language)
    source = "src/lib.rs" if language == "rust" else project.entry.relative_to(folder)
    click.echo(f"edit {folder / source}; build it by: pie build {folder}", err=True)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), default=Path(), metavar="[DIR]")
@click.option("--output", "-o", type=click.Path(path_type=Path, dir_okay=False), help="Default: NAME.wasm in DIR.")
def build(folder: Path, output: Path | None) -> None:
    """Build the program in a folder into a component.

    What the folder holds decides the language: Cargo.toml, package.json or main.ts, main.py; `language` in Pie.toml
    overrides it. Prints the component's path.
    """
    target = build_project(folder, output, pie_home())
    size = target.stat().st_size
    click.echo(f"built {size / 1000:.0f} kB" if size < 10**6 else f"built {size / 10**6:.1f} MB", err=True)
    click.echo(target)


@click.command()
@click.argument("component", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def check(component: Path) -> None:
    """Check that a component asks for nothing that this version does not offer, and can be run."""
    check_component(component)
    click.echo("it fits", err=True)
