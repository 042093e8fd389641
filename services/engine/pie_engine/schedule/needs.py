"""What a request needs of passes."""

from __future__ import annotations

from collections.abc import Sequence

from pie_engine.passes.outputs import Output, Sampler
from pie_engine.runs.run import Run
from pie_engine.runs.verification import Verification
from pie_engine.schedule.work import Pass, Work


def decodes(work: Work) -> bool:
    """It has one row to go, and its pages are in the pool."""
    context = work.context
    return work.end - context.kv_length <= 1 and context.swapped is None


def rows_of(work: Work) -> int:
    """Rows of a decode: one, and those of guesses that it must have included."""
    return 1 if isinstance(work, Run) or not isinstance(work, Verification) else 1 + len(work.tokens)


def asked(work: Work) -> int:
    """Outputs that are wanted of it before it is done; of a run, of its next row."""
    if isinstance(work, Run):
        return 1 + len(work.probes)
    if isinstance(work, Pass):
        return len(work.wanted) - work.answered
    return rows_of(work) if isinstance(work, Verification) else 0


def reach(work: Work) -> int:
    """Slots that the request needs in the end, those of guesses that it must have included."""
    return work.end + len(work.tokens) if isinstance(work, Verification) else work.end


def findable(work: Work) -> int:
    """Tokens whose KV may come from the cache: rows that are asked must run, except that a last row may just ask."""
    first = work.first_output
    if first is None or (first == work.end - 1 and not isinstance(work, Verification)):
        return work.context.length
    return first


def probes(outputs: Sequence[Output]) -> int:
    """How many of these are no tokens."""
    return sum(not isinstance(output.spec, Sampler) for output in outputs)


def wants_probes(work: Work) -> bool:
    """It asks for more than tokens."""
    return bool(work.probes) if isinstance(work, Run) else isinstance(work, Pass) and probes(work.wanted) > 0
