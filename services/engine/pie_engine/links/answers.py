"""How operations end: done, or failed with the context's next generation."""

from __future__ import annotations

from pie_wire.errors import BadField, PieError, Skipped

from pie_engine.contexts.context import Context
from pie_engine.links.runner_link import RunnerLink


def done(link: RunnerLink, number: int) -> None:
    """The operation is over, however it ended: it counts as acknowledged."""
    link.open.pop(number, None)


def fail(context: Context, number: int, error: PieError) -> None:
    """The operation failed: later ones of the generation it belongs to will be skipped."""
    context.generation += 1
    context.cause = error
    context.link.outbox.fail(number, context.id, context.generation, error.info())
    done(context.link, number)


def refuse(context: Context, number: int, refusal: PieError) -> None:
    """The operation is not carried out (see `refusal_of`); the generation stays."""
    context.link.outbox.fail(number, context.id, context.generation, refusal.info())
    done(context.link, number)


def refusal_of(context: Context, generation: int) -> PieError | None:
    """Why an operation of this generation is not carried out, if so."""
    if context.dead and context.cause is not None:
        return context.cause
    if generation < context.generation and context.cause is not None:
        return Skipped(
            f"skipped, because an earlier operation on context {context.id} failed: {context.cause.message}",
            cause=context.cause.cause or context.cause.code,
        )
    if generation != context.generation:
        return BadField(f"context {context.id} has generation {context.generation}, not {generation}")
    return None
