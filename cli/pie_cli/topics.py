"""`pie topics`: the queues of messages between programs."""

from __future__ import annotations

import json
import time

import click
import msgspec

from pie_cli.connect import connected, run_async
from pie_cli.ps import age
from pie_cli.table import print_table

SHOWN = 60
"""Characters of a message that a person is shown."""


@click.group(name="topics")
def topics_group() -> None:
    """Look at the queues of messages between your programs."""


@topics_group.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_topics(as_json: bool) -> None:
    """List topics that hold messages: waiting, taken by a program, dead."""
    run_async(_list(as_json))


async def _list(as_json: bool) -> None:
    async with connected() as client:
        found = await client.topics()
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(found), indent=2))
        return
    if not found:
        click.echo("no topic holds messages", err=True)
        return
    rows = [[t.name, str(t.waiting), str(t.taken), str(t.dead), f"{t.size / 1000:.1f} kB"] for t in found]
    print_table(("TOPIC", "WAITING", "TAKEN", "DEAD", "SIZE"), rows)


@topics_group.command()
@click.argument("topic")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, messages in full.")
def dead(topic: str, as_json: bool) -> None:
    """Show messages that five programs had and none acknowledged."""
    run_async(_dead(topic, as_json))


async def _dead(topic: str, as_json: bool) -> None:
    async with connected() as client:
        found = await client.dead_messages(topic)
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(found), indent=2))
        return
    if not found:
        click.echo(f"no dead messages in {topic}", err=True)
        return
    now = time.time()
    rows = [[str(m.message), f"{age(now - m.pushed_at)} ago", _short(m.text)] for m in found]
    print_table(("MESSAGE", "PUSHED", "TEXT"), rows)


@topics_group.command()
@click.argument("topic")
@click.option("--waiting", is_flag=True, help="Also the messages that nobody has.")
def purge(topic: str, waiting: bool) -> None:
    """Delete the dead messages of a topic."""
    run_async(_purge(topic, waiting))


async def _purge(topic: str, waiting: bool) -> None:
    async with connected() as client:
        count = await client.purge(topic, waiting=waiting)
    click.echo(f"{count} messages deleted", err=True)


def _short(text: str) -> str:
    shown = text if text.isprintable() else json.dumps(text, ensure_ascii=False)
    return shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}..."
