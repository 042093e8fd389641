"""Keeps answers of probes from piling up in front of a runner that takes them more slowly than passes give them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pie_wire.hub import Peer

from pie_engine.schedule.work import Work

MOST_BYTES = 64 << 20
"""Of such answers that one runner has not acknowledged, those of the next pass included."""
SLIGHT_BYTES = 2 << 20
"""What a runner may leave unacknowledged for a while without being slow."""


class AnswerBudget:
    """Which requests may take part in a pass, given what their runners are still owed.

    A request that asks for more of a row than tokens, or for pages, takes part when they fit beside what its runner
    has not acknowledged yet, or when nothing is underway to that runner, so that no request is too large for ever.
    Others wait, in order of arrival; requests for tokens never do.
    """

    def __init__(self, owed: Callable[[Peer], int], vocab: int) -> None:
        """`owed` gives the bytes that a peer has not acknowledged."""
        self._owed = owed
        self._vocab = vocab

    def admit(self, works: Iterable[Work]) -> list[Work]:
        """Those of `works` that may take part now."""
        admitted: list[Work] = []
        asking: list[tuple[Work, int]] = []
        for work in works:
            size = work.answer_bytes(self._vocab)
            if size:
                asking.append((work, size))
            else:
                admitted.append(work)
        if asking:
            self._fit(asking, admitted)
        return admitted

    def _fit(self, asking: list[tuple[Work, int]], admitted: list[Work]) -> None:
        owed: dict[Peer, int] = {}
        full: set[Peer] = set()
        for work, size in sorted(asking, key=lambda item: item[0].arrival):
            peer = work.context.link.peer
            if peer not in owed:
                waiting = self._owed(peer)
                owed[peer] = waiting if waiting > SLIGHT_BYTES else 0
            underway = owed[peer]
            if peer in full or (underway and underway + size > MOST_BYTES):
                full.add(peer)
                continue
            owed[peer] = underway + size
            admitted.append(work)
