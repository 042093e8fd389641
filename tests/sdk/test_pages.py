"""Pages, scheduling and adapters as Python programs say them."""

from __future__ import annotations

import textwrap
from typing import Any

from lab import Lab
from pie_runner.wasm.program import Program

PRELUDE = "import asyncio\nfrom inferlet import *\n"


def run(lab: Lab, python: Program, body: str) -> Any:
    source = PRELUDE + "async def main(input=None):\n" + textwrap.indent(textwrap.dedent(body), "    ")
    return lab.run(python, source).value


def test_page_operations(lab: Lab, python: Program):
    body = """
        ctx = Context().append_text("abcd")
        await ctx.drop_tokens(0, 2)
        ctx.reserve_pages(2)
        await ctx.commit_pages(1)
        ctx.release_pages(1)
        await ctx.pin("mine", 60)
        Context.unpin(ctx.model, "mine")
        ctx.set_adapters(["style"])
        ctx.set_adapters({"a/b@12345678": 0.5})
        count = ctx.pages
        return count.committed, count.working, count.room, Context.prefetch(ctx.model, "none"), ctx.rent()
    """

    assert run(lab, python, body) == [0, 1, None, False, 4.0]


def test_idle_scopes_nest_and_the_outermost_counts(lab: Lab, python: Program):
    body = """
        ctx, other = Context(), Context()
        with ctx.idle():
            with scheduling.idle():
                inside = ctx.rent(), other.rent()
            left = ctx.rent(), other.rent()
        gone = Context()
        with scheduling.idle():
            gone.release()
        return inside, left, ctx.rent()
    """

    assert run(lab, python, body) == [[1.0, 1.0], [1.0, 2.0], 4.0]


def test_scheduling_of_the_whole_program(lab: Lab, python: Program):
    body = """
        ctx = Context()
        scheduling.bid(2.0)
        await ctx.suspend()
        await scheduling.when_pressure("low")
        try:
            await scheduling.when_pressure("awful")
        except ValueError as exc:
            refused = str(exc)
        now = scheduling.pressure()
        receipt = ctx.receipts()[0]
        return (now.level, now.demand), scheduling.latency(), ctx.balance(), ctx.rent(), receipt.reason, refused
    """

    assert run(lab, python, body) == [
        ["low", 0.5],
        0.01,
        -1.0,
        1.0,
        "suspend",
        "level is low, medium or high, not 'awful'",
    ]


def test_adapters_are_listed(lab: Lab, python: Program):
    assert run(lab, python, "return [[a.name, a.current] for a in adapters.available()]") == [["style", True]]


def test_a_context_leaves_and_comes_back_as_bytes(lab: Lab, python: Program):
    body = """
        data = await Context().append_text("abcd").export()
        return data.decode(), Context.from_export(Model.load(), data).text()
    """

    assert run(lab, python, body) == ["abcd", "abcd"]
