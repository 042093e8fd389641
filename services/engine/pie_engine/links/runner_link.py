"""One runner as the engine sees it: its contexts, its runs, and what it is owed."""

from __future__ import annotations

from dataclasses import dataclass, field

from pie_wire.hub import Peer

from pie_engine.contexts.context import Context
from pie_engine.links.outbox import Outbox
from pie_engine.runs.run import Run


@dataclass(eq=False, slots=True)
class RunnerLink:
    """Owner of contexts: when the link goes down, all of them are freed."""

    peer: Peer
    contexts: dict[int, Context] = field(default_factory=dict[int, Context])
    """By the ids that the runner chose."""
    prefetches: dict[Context, None] = field(default_factory=dict["Context", None])
    """Contexts of the engine's own, whose ids are negative."""
    runs: dict[int, Run] = field(default_factory=dict[int, Run])
    outbox: Outbox = field(default_factory=Outbox)
    last: int = 0
    """Number of the last operation received."""
    awaits: bool = False
    """Has sent something since the last message to it that a program may wait to be acknowledged."""
    waiting: int = 0
    """What waits in the lines of its contexts, weighed (see `Line`)."""
    open: dict[int, None] = field(default_factory=dict[int, None])
    """Numbers of operations not carried out yet, ascending."""

    @property
    def acked(self) -> int:
        """All operations up to this number are done."""
        return next(iter(self.open)) - 1 if self.open else self.last
