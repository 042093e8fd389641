"""Aligned columns on stdout, never cut short: what is shown can be copied."""

from __future__ import annotations

from collections.abc import Sequence

import click

Cell = str | tuple[str, str]
"""Text, or (text, colour)."""

GAP = "  "


def print_table(titles: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    """Print rows under their titles."""
    cells = [[cell if isinstance(cell, tuple) else (cell, "") for cell in row] for row in rows]
    widths = [max([len(title), *(len(row[column][0]) for row in cells)]) for column, title in enumerate(titles)]
    click.secho(_line(titles, widths), dim=True)
    for row in cells:
        padded = [f"{text:<{width}}" for (text, _), width in zip(row, widths, strict=True)]
        styled = [
            click.style(text, fg=colour) if colour else text for text, (_, colour) in zip(padded, row, strict=True)
        ]
        click.echo(GAP.join(styled).rstrip())


def _line(texts: Sequence[str], widths: Sequence[int]) -> str:
    return GAP.join(f"{text:<{width}}" for text, width in zip(texts, widths, strict=True)).rstrip()
