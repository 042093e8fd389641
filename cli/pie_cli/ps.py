"""`pie ps`, `pie attach`, `pie kill`: processes."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from pie_cli.connect import connected, find_process, run_async
from pie_cli.table import Cell, print_table

SHORT = 12
"""Digits of a process id that a person is shown."""
STATE_COLOURS = {"running": "green", "starting": "yellow", "failed": "red"}


@click.command()
@click.option("--all", "-a", "ended", is_flag=True, help="Also processes that have ended in the last ten minutes.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def ps(ended: bool, as_json: bool) -> None:
    """List processes."""
    run_async(_ps(ended, as_json))


async def _ps(ended: bool, as_json: bool) -> None:
    async with connected() as client:
        found = await client.list(ended=ended)
        members = [] if as_json or not found else (await client.status()).members
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(found), indent=2))
        return
    if not found:
        click.echo("no processes" if ended else "no processes are running (-a shows those that ended)", err=True)
        return
    now = time.time()
    dedicated = {m.name: str(m.info["tenants"]) for m in members if m.kind == "runner" and m.info.get("tenants")}
    rows: list[list[Cell]] = [
        [
            process.pid[:SHORT],
            process.program,
            (process.state, STATE_COLOURS.get(process.state, "")),
            age((process.ended_at or now) - process.created_at),
            str(process.last_seq),
            f"{process.runner} (only {tenants})" if (tenants := dedicated.get(process.runner)) else process.runner,
            process.parent[:SHORT],
            process.error.code if process.error else "",
        ]
        for process in found
    ]
    print_table(("PROCESS", "PROGRAM", "STATE", "RAN", "EVENTS", "RUNNER", "PARENT", "ERROR"), rows)


@click.command()
@click.argument("pid")
@click.option("--from", "start", type=click.IntRange(1), default=1, show_default=True, help="First event to show.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per event.")
@click.option(
    "--save-to",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Keep the files that the program sends in this folder.",
)
def attach(pid: str, start: int, as_json: bool, save_to: Path | None) -> None:
    """Follow a process from any of its events on. Ctrl-C leaves; the process goes on."""
    run_async(_attach(pid, start, as_json, save_to))


async def _attach(pid: str, start: int, as_json: bool, save_to: Path | None) -> None:
    from pie_cli.stream import JsonPrinter, TextPrinter

    printer = JsonPrinter(save_to) if as_json else TextPrinter(save_to)
    async with connected() as client:
        process = await client.attach(await find_process(client, pid), start)
        async for event in process.events():
            printer.show(event)


@click.command()
@click.argument("pids", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="End all running processes.")
def kill(pids: Sequence[str], everything: bool) -> None:
    """End processes. One that has ended already is no error."""
    if bool(pids) == everything:
        raise click.UsageError("give process ids, or --all")
    run_async(_kill(pids))


async def _kill(pids: Sequence[str]) -> None:
    async with connected() as client:
        running = {p.pid for p in await client.list()}
        for pid in [await find_process(client, pid) for pid in pids] or running:
            await client.terminate(pid, "ended by `pie kill`")
            click.echo(f"{'ended' if pid in running else 'had ended already:'} {pid[:SHORT]}", err=True)


def age(seconds: float) -> str:
    """`5s`, `3m`, `2h`, `4d`."""
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds / size:.0f}{unit}"
    return f"{max(0.0, seconds):.0f}s"
