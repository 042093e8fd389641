"""`pie adapter`: LoRA adapters beside the model."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import click
import msgspec
from pie_wire.messages.gateway import EngineAdapters
from pie_zmq import AsyncClient

from pie_cli.connect import connected, run_async
from pie_cli.table import print_table

SHORT_DIGEST = 12

Ask = Callable[[AsyncClient], Awaitable[list[EngineAdapters]]]

_model = click.option("--model", default="", help="Only on engines of this model; without it on all.")
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(name="adapter")
def adapter_group() -> None:
    """Load, list and unload LoRA adapters, which programs use by name."""


@adapter_group.command()
@click.argument("name")
@click.argument("folder")
@_model
@_json
def load(name: str, folder: str, model: str, as_json: bool) -> None:
    """Load the adapter in FOLDER as NAME: what PEFT's save_pretrained wrote, on the engine's machine.

    A name that is loaded already gets a new version; programs that use the old one go on with it.
    """
    place = str(Path(folder).expanduser().absolute())
    run_async(_show(lambda client: client.load_adapter(name, place, model), as_json, "loaded"))


@adapter_group.command("list")
@_model
@_json
def list_adapters(model: str, as_json: bool) -> None:
    """List the adapters of every engine: versions, size, and how many contexts need them."""
    run_async(_show(lambda client: client.adapters(model), as_json, ""))


@adapter_group.command()
@click.argument("adapter")
@_model
@_json
def unload(adapter: str, model: str, as_json: bool) -> None:
    """Unload ADAPTER: NAME (all its versions) or NAME@DIGEST. Contexts that use it go on."""
    run_async(_show(lambda client: client.unload_adapter(adapter, model), as_json, "unloaded"))


async def _show(ask: Ask, as_json: bool, done: str) -> None:
    async with connected() as client:
        engines = await ask(client)
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(engines), indent=2))
    else:
        _print(engines, done)
    failed = [engine.engine for engine in engines if engine.error is not None]
    if failed:
        raise click.ClickException(f"it failed on {', '.join(failed)}, and was done on the others")


def _print(engines: list[EngineAdapters], done: str) -> None:
    rows: list[list[str]] = []
    for engine in engines:
        if engine.error is not None:
            click.echo(f"{engine.engine}: {engine.error.message} ({engine.error.code})", err=True)
        rows += [
            [a.name, a.digest[:SHORT_DIGEST], done or a.state, str(a.rank), size(a.size), str(a.users), engine.engine]
            for a in engine.adapters
        ]
    if rows:
        print_table(("ADAPTER", "DIGEST", "STATE", "RANK", "SIZE", "USERS", "ENGINE"), rows)
    elif not done:
        click.echo("no adapter is loaded: `pie adapter load NAME FOLDER`", err=True)


def size(count: int) -> str:
    """Bytes, for people."""
    return f"{count / 1e6:.1f} MB" if count >= 100_000 else f"{count / 1e3:.1f} kB"
