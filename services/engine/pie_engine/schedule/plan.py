"""A pass as the schedule sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pie_engine.passes.batch import Batch
from pie_engine.schedule.work import Work


# Not frozen: one is made per request and step, and freezing makes that slow.
@dataclass(slots=True)
class Entry:
    """Rows [start, stop) of one request in a pass, with a row for each of `drafts` behind them.

    `copy` is the page copy that the request waits for, to be undone should the pass fail.
    """

    work: Work
    start: int
    stop: int
    outputs: int
    copy: tuple[int, int] | None = None
    drafts: Sequence[int] = ()
    row: int = 0
    """Where the rows of `drafts` begin in the batch, whose tokens count: a draft model may have filled them in."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A pass: the batch, and which request each segment belongs to, in order."""

    batch: Batch
    entries: Sequence[Entry]

    def guesses(self, entry: Entry) -> Sequence[int]:
        """The tokens of an entry's drafts as the pass has had them."""
        return self.batch.tokens[entry.row : entry.row + len(entry.drafts)].tolist()
