"""`pie programs` and `pie install`: the registry."""

from __future__ import annotations

import json
import time
import tomllib
from pathlib import Path

import click
import msgspec
from pie_wire.capabilities import asked_by
from pie_wire.errors import BadField

from pie_cli.connect import connected, run_async
from pie_cli.ps import age
from pie_cli.table import print_table


class _Manifest(msgspec.Struct):
    """What is read here of a manifest."""

    package: dict[str, str] = {}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def programs(as_json: bool) -> None:
    """List installed programs, all versions."""
    run_async(_programs(as_json))


async def _programs(as_json: bool) -> None:
    async with connected() as client:
        found = await client.programs()
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(found), indent=2))
        return
    if not found:
        click.echo("nothing is installed: `pie install DIR`", err=True)
        return
    now = time.time()
    rows: list[list[str]] = []
    for program in found:
        ref = program.ref
        size = f"{program.size / 1000:.1f} kB" if program.size < 10**6 else f"{program.size / 10**6:.1f} MB"
        installed = f"{age(now - program.installed_at)} ago"
        rows.append(
            [ref.name, ref.version, ref.kind, size, installed, asks(program.manifest), _description(program.manifest)]
        )
    print_table(("PROGRAM", "VERSION", "KIND", "SIZE", "INSTALLED", "ASKS FOR", "DESCRIPTION"), rows)


def _description(manifest: str) -> str:
    """What the program's manifest says it does."""
    try:
        return msgspec.convert(tomllib.loads(manifest), _Manifest).package.get("description", "")
    except (tomllib.TOMLDecodeError, msgspec.ValidationError):
        return ""


def asks(manifest: str) -> str:
    """What the program's manifest asks to do outside of the sandbox."""
    try:
        return " ".join(asked_by(manifest).words()) or "-"
    except BadField:
        return "?"  # written by a newer version, which knows other capabilities


@click.command()
@click.argument("source", type=click.Path(exists=True, path_type=Path), metavar="DIR|FILE")
@click.option("--replace", is_flag=True, help="Put these bytes in the place of others under the same version.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def install(source: Path, replace: bool, as_json: bool) -> None:
    """Install the program in a folder (Pie.toml and main.py or a .wasm), or a file with Pie.toml beside it."""
    run_async(_install(source, replace, as_json))


async def _install(source: Path, replace: bool, as_json: bool) -> None:
    async with connected() as client:
        program = await client.install(source, replace=replace)
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(program), indent=2))
        return
    click.echo(f"installed {program.ref.name}@{program.ref.version}", err=True)
