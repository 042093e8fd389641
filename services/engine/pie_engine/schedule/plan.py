"""A pass as the schedule sees it: while it is being put together, and when it goes to the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pie_engine.contexts.context import Context
from pie_engine.passes.batch import Batch, Load, PageLoad, Segment
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


@dataclass(slots=True)
class Draft:
    """A pass in the making."""

    segments: list[Segment] = field(default_factory=list[Segment])
    entries: list[Entry] = field(default_factory=list[Entry])
    copies: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    loads: list[PageLoad] = field(default_factory=list[PageLoad])
    planned: set[Context] = field(default_factory=set[Context])
    producing: set[bytes] = field(default_factory=set[bytes])
    """Hashes of pages that prefills of this pass, or their later chunks, will publish."""
    load: Load = field(default_factory=Load)
    probes: int = 0
    """Outputs other than tokens."""
    prefills: int = 0
    claimed: int = 0
    """Pages that prompts already begun will still need."""
    full: bool = False
    """No pages for a request that has none yet: those who have begun go on."""
