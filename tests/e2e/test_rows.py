"""Who holds which pages: what Redis says equals what the engine has, within a second of quiet."""

from __future__ import annotations

import time
from pathlib import Path

from e2e_stack import Stack, eventually
from pie_zmq import Client

WITHIN = 1.0

HOLDING = """
from inferlet import Context, Sampler, session


async def main(numbers: list[int]) -> list[int]:
    root = Context()
    root.append_text("la " * 40)
    await root.flush()
    branches = [root.fork() for _ in numbers]
    for branch, number in zip(branches, numbers, strict=True):
        branch.append_text("x" * number)
        await branch.generate(Sampler.greedy(), max_tokens=number).text()
    lengths = [ctx.seq_len for ctx in (root, *branches)]
    session.send(lengths)
    await session.receive()
    return lengths
"""


def test_rows_equal_the_engines_table(stack: Stack, tmp_path: Path):
    path = tmp_path / "holding.py"
    path.write_text(HOLDING)
    with stack.client() as client:
        processes = [client.run_file(path, {"numbers": [n, 2 * n, 40]}, on_disconnect="terminate") for n in (3, 20)]
        lengths: dict[str, list[int]] = {}
        for process in processes:
            said = next(event.text for event in process.events() if event.kind == "message")
            lengths[process.pid] = sorted(int(word) for word in said.strip("[]").split(","))
        quiet = time.monotonic()

        eventually(
            "rows are the engine's",
            lambda: rows(client) == lengths and pools_agree(client) and holds_only_what_it_needs(client),
            WITHIN,
        )
        assert time.monotonic() - quiet < WITHIN + 0.3

        for process in processes:
            process.signal("done")
            process.result(20)
        eventually("rows are gone", lambda: rows(client) == {} and pools_agree(client), WITHIN)
    stack.check_quiet()


def rows(client: Client) -> dict[str, list[int]]:
    """Tokens of each context by process, from Redis."""
    found: dict[str, list[int]] = {}
    for engine in client.pages().engines:
        for row in engine.rows:
            found.setdefault(row.process, []).append(row.tokens)
    return {process: sorted(tokens) for process, tokens in found.items()}


def holds_only_what_it_needs(client: Client) -> bool:
    """No context holds more pages than its tokens fill. A run that goes on may hold one ahead of them."""
    return all(
        # The last token may have no KV yet.
        row.pages in {-(-tokens // engine.pool.page_size) for tokens in (row.tokens, row.tokens - 1)}
        for engine in client.pages().engines
        for row in engine.rows
    )


def pools_agree(client: Client) -> bool:
    """What Redis has of the pool against the engine's own figures in its lease."""
    [engine] = client.pages().engines
    load = next(m.stats for m in client.status().members if m.kind == "engine")
    pool = engine.pool
    assert pool.free + pool.cached + pool.owned == pool.total
    return (pool.owned, len(engine.rows)) == (load["pages_owned"], load["contexts"])
