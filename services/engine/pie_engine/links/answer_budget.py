"""Keeps answers of probes from piling up in front of a runner that takes them more slowly than passes give them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pie_wire.hub import Peer

from pie_engine.contexts.context import Context
from pie_engine.schedule.work import Export, Work

MOST_BYTES = 64 << 20
"""Of such answers that one runner has not acknowledged, those of the next pass included."""
SLIGHT_BYTES = 2 << 20
"""What a runner may leave unacknowledged for a while without being slow."""


class AnswerBudget:
    """Which contexts may take part in a pass, given what their runners are still owed.

    A request that asks for more of a row than tokens, or for pages, takes part when they fit beside what its runner
    has not acknowledged yet, or when nothing is underway to that runner, so that no request is too large for ever.
    Others wait, in order of arrival; requests for tokens never do.
    """

    def __init__(self, owed: Callable[[Peer], int], vocab: int) -> None:
        """`owed` gives the bytes that a peer has not acknowledged."""
        self._owed = owed
        self._vocab = vocab

    def admit(self, contexts: Iterable[Context]) -> list[Context]:
        """Those of `contexts` that may compute now."""
        admitted: list[Context] = []
        asking: list[tuple[int, Context, int]] = []
        for context in contexts:
            work = context.work
            size = self._size(work) if work is not None else 0
            if work is not None and size:
                asking.append((work.arrival, context, size))
            else:
                admitted.append(context)
        if asking:
            self._fit(asking, admitted)
        return admitted

    def _size(self, work: Work) -> int:
        return work.size if isinstance(work, Export) else work.answer_bytes(self._vocab)

    def _fit(self, asking: list[tuple[int, Context, int]], admitted: list[Context]) -> None:
        owed: dict[Peer, int] = {}
        full: set[Peer] = set()
        for _, context, size in sorted(asking, key=lambda item: item[0]):
            peer = context.link.peer
            if peer not in owed:
                waiting = self._owed(peer)
                owed[peer] = waiting if waiting > SLIGHT_BYTES else 0
            underway = owed[peer]
            if peer in full or (underway and underway + size > MOST_BYTES):
                full.add(peer)
                continue
            owed[peer] = underway + size
            admitted.append(context)
