"""Gives the rows of a lockstep pass their positions and masks."""

from __future__ import annotations

from collections.abc import Sequence

from pie_wire.errors import BadField
from pie_wire.messages import engine as wire

from pie_engine.contexts.context import Context
from pie_engine.contexts.lineage import Lineage
from pie_engine.limits import Limits
from pie_engine.passes.masks import covers, rows_of
from pie_engine.passes.segment import Intervals


def lay_out(context: Context, op: wire.Forward, limits: Limits) -> Lineage | None:
    """Record positions and masks of the pass's rows, whose tokens the context does not have yet.

    Returns the lineage as it was, when the pass changed the row of a token that the context has; else truncation undoes
    what was recorded. Raises BadField or TooLarge, having changed nothing.
    """
    if not op.tokens:
        return _replace_mask(context, op)
    if not op.positions and op.mask.kind == "causal":
        return None
    first, count = context.length, len(op.tokens)
    rows = rows_of(op.mask, first, count)
    _check_sight(context, rows)
    positions = op.positions or _following(context, op.mask, count)
    check_positions(positions, limits)
    for slot, position, row in zip(range(first, first + count), positions, rows, strict=True):
        context.lineage.place(slot, position)
        context.lineage.mask(slot, row)
    return None


def check_positions(positions: Sequence[int], limits: Limits) -> None:
    """Positions that the model has."""
    if positions and not (min(positions) >= 0 and max(positions) < limits.max_context):
        wrong = next(p for p in positions if not 0 <= p < limits.max_context)
        raise BadField(f"position {wrong} does not fit a model with positions from 0 to {limits.max_context - 1}")


def _replace_mask(context: Context, op: wire.Forward) -> Lineage | None:
    if op.mask.kind == "causal":
        return None
    if op.mask.kind == "tree":
        raise BadField("a tree needs tokens: the last token alone has no branches")
    slot = context.length - 1
    (row,) = rows_of(op.mask, slot, 1)
    _check_sight(context, [row])
    before = context.lineage.copy()
    context.lineage.mask(slot, row)
    return before


def _check_sight(context: Context, rows: Sequence[Intervals | None]) -> None:
    """Every row sees something that has not been dropped."""
    for row in rows:
        if row is not None and covers(context.lineage.dropped, row):
            raise BadField("a mask shows its row nothing but tokens that were dropped")


def _following(context: Context, mask: wire.Mask, count: int) -> list[int]:
    """Each row one position after the token it follows."""
    base = context.lineage.position(context.length)
    if mask.kind != "tree":
        return list(range(base, base + count))
    positions: list[int] = []
    for parent in mask.parents:
        positions.append(base if parent < 0 else positions[parent] + 1)
    return positions
