"""A context: a token list and the pages that hold KV for its beginning."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from pie_wire.errors import PieError
from pie_wire.messages.common import Account

from pie_engine.adapters.spans import AdapterSpans
from pie_engine.contexts.line import Line
from pie_engine.contexts.lineage import Lineage
from pie_engine.limits import Limits
from pie_engine.memory.swap import Swapped

if TYPE_CHECKING:
    from pie_engine.links.runner_link import RunnerLink
    from pie_engine.runs.run import Run
    from pie_engine.schedule.work import Waiting, Work

_LEAST_WEIGHT = 1e-6


@dataclass(eq=False, slots=True)
class PinnedPages:
    """Pages held by the pins of all accounts."""

    count: int = 0


@dataclass(eq=False, slots=True)
class AccountUse:
    """An account with the page-table entries its contexts hold. Shared pages count once per context."""

    account: Account
    contexts: int = 0
    pages: int = 0
    pinned: int = 0
    """Of `pages`, those that pins hold."""
    pool: PinnedPages = field(default_factory=PinnedPages)

    def most_pages(self, limits: Limits) -> int:
        """Pages that one context of the account can hold, beside what is pinned."""
        left = limits.pages - self.pool.count
        return min(left, self.account.page_cap - self.pinned) if self.account.page_cap else left

    served: float = 0.0
    """Rows of prompts per weight, as the turns between accounts count them."""

    @property
    def ratio(self) -> float:
        """Pages held per weight: the account with most is the first to give way to others."""
        return self.ratio_with(0)

    def ratio_with(self, more: int) -> float:
        """The ratio with so many pages more."""
        return (self.pages + more) / max(self.account.weight, _LEAST_WEIGHT)


@dataclass(frozen=True, slots=True)
class Absence:
    """KV that a context has lost, until it is back."""

    reason: Literal["pressure", "cap", "suspend"]
    how: Literal["swapped", "recomputed"]
    since: float
    """On the hub's clock, in seconds."""
    length: int
    """Tokens that had KV."""


@dataclass(eq=False, slots=True)
class Context:
    """State of one context. Lengths count tokens.

    tokens   |------ guest sees ------|-- decoded ahead --|
                                 guest_length           length
    KV       |------------- kv_length -------------|
    pages    |published pages |    private pages      |
    """

    id: int
    link: RunnerLink
    process: str
    tenant: str
    use: AccountUse
    parent: int = 0
    since: float = 0.0
    generation: int = 0
    cause: PieError | None = None
    """Why the last failed operation failed: the cause that operations of an older generation get."""
    dead: bool = False
    """Its create or fork failed: every operation returns `cause`."""
    unborn: bool = False
    """Its fork waits for earlier operations of the parent."""
    tokens: list[int] = field(default_factory=list[int])
    origin: bytes = b""
    """Checksum of the import that it began as: what came from outside is found only by those who bring the same."""
    lineage: Lineage = field(default_factory=Lineage)
    """Positions and masks of the tokens, where they are not the plain ones."""
    pages: array[int] = field(default_factory=lambda: array("i"))
    adapters: AdapterSpans = field(default_factory=AdapterSpans)
    hashes: list[bytes] = field(default_factory=list[bytes])
    """Chained content hashes of leading full pages, computed on demand."""
    holes: int = 0
    """Entries of `pages` that stand for a page given up, because its tokens were dropped."""
    committed: int = 0
    """Leading pages that truncation does not reach."""
    reserved: int | None = None
    """Working pages, those behind the committed ones, that it may have; None: as many as it needs."""
    published: int = 0
    """Leading pages that have been offered to others."""
    kv_length: int = 0
    found: int = 0
    """Tokens whose KV was found in the cache since a run last reported it, instead of computed a first time."""
    reach: int = 0
    """Leading tokens that have had KV, though pressure may have taken it."""
    run: Run | None = None
    current: Waiting | None = None
    """The flush or pass being carried out; the operations behind it wait in `queue`."""
    queue: Line = field(init=False)
    last_step: int = 0
    """The last engine step that had a row of this context."""
    bid: float = 1.0
    """What its pages are worth to it, compared with other contexts of the account."""
    idle: bool = False
    """Inside an idle scope: its run pauses."""
    suspended: bool = False
    """Its program gave the pages back: its run pauses until a later operation."""
    swapped: Swapped | None = None
    """Where its KV is while it is in host memory; `kv_length` is 0 then."""
    absence: Absence | None = None
    recomputed: int = 0
    """Tokens computed again since `absence` began."""
    moved: int = 0
    """Pages copied back since `absence` began."""
    arrival: int = 0
    """Of its latest work: what makes it young."""
    tardy: bool = False
    """Its program was not back with its next pass when others were served."""
    gone: bool = False
    """It was dropped."""
    immune_until: int = 0
    """Not a victim of pressure before this step."""

    def __post_init__(self) -> None:
        self.queue = Line(self.link)

    @property
    def impure(self) -> bool:
        """Its tokens do not bring its KV back: only a copy of its pages does."""
        return bool(self.lineage.views)

    @property
    def length(self) -> int:
        return len(self.tokens)

    @property
    def computed(self) -> int:
        """Tokens that need not be computed: their KV is in the pool or in host memory."""
        return self.kv_length if self.swapped is None else self.swapped.length

    @property
    def guest_length(self) -> int:
        """Tokens the program has: all of them, or up to the consumed point of the run."""
        return self.run.start + self.run.consumed if self.run is not None else len(self.tokens)

    @property
    def work(self) -> Work | None:
        """What this context could do in a pass now."""
        if self.current is not None:
            return self.current
        if self.run is not None and self.run.ready and not (self.idle or self.suspended):
            return self.run
        return None

    @property
    def standing(self) -> float:
        """Its bid, which counts as 0 while it is idle."""
        return 0.0 if self.idle or self.suspended else self.bid
