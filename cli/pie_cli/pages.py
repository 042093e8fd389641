"""`pie pages`: who holds the KV cache."""

from __future__ import annotations

import json
import time

import click
import msgspec
from pie_wire.messages.kvstore import EnginePages

from pie_cli.connect import connected, run_async
from pie_cli.ps import SHORT, age
from pie_cli.table import print_table


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def pages(as_json: bool) -> None:
    """Show the pages of every engine: total, free, cached, and owned by which process.

    Cached pages belong to nobody and are kept for prompts that begin alike; they are given up when room is needed.
    """
    run_async(_pages(as_json))


async def _pages(as_json: bool) -> None:
    async with connected() as client:
        report = await client.pages()
    if as_json:
        engines = [
            {"engine": e.engine, "pool": _whole(e), "contexts": [msgspec.structs.asdict(row) for row in e.rows]}
            for e in report.engines
        ]
        click.echo(json.dumps({"engines": engines}, indent=2))
        return
    for engine in report.engines:
        _print(engine)
    if not report.engines:
        click.echo("no engine has reported yet", err=True)


def _whole(engine: EnginePages) -> dict[str, int]:
    return {name: getattr(engine.pool, name) for name in engine.pool.__struct_fields__}


def _print(engine: EnginePages) -> None:
    pool = engine.pool
    used = pool.owned / pool.total * 100 if pool.total else 0
    click.echo(
        f"{engine.engine}: {pool.total} pages of {pool.page_size} tokens: "
        f"{pool.owned} owned ({used:.0f} %), {pool.cached} cached, {pool.free} free"
    )
    now = time.time()
    rows = [
        [
            row.process[:SHORT],
            str(row.context),
            str(row.tokens),
            str(row.pages),
            str(row.shared),
            age(now - row.since) if row.since else "",
            row.runner,
            row.tenant,
        ]
        for row in engine.rows
    ]
    if rows:
        print_table(("PROCESS", "CONTEXT", "TOKENS", "PAGES", "SHARED", "SINCE", "RUNNER", "TENANT"), rows)
