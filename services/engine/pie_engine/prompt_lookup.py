"""Drafts from the context itself: what followed the last time the same tokens occurred."""

from __future__ import annotations

from collections.abc import Sequence

_FIRST_LENGTH = 4
_FAILURES = 3
"""Rounds in a row without an accepted draft before drafting rests."""
_REST = 16
_MOST_REST = 512
_INDEX_AT_ONCE = 4096


class PromptLookup:
    """Prompt lookup decoding (Saxena, 2023): the last `n` tokens are looked up in the context, and the tokens after
    their latest earlier occurrence are proposed, running on into themselves where the context repeats.

    How much is proposed follows success: twice as much after a round that was accepted whole, what was accepted and one
    more after another; after three rounds without success nothing for 16 tokens, then 32, up to 512. What is proposed
    never changes which tokens a run gives, so none of this is part of a context's state.
    """

    def __init__(self, n: int, most: int) -> None:
        self._n = n
        self._most = most
        self._length = min(_FIRST_LENGTH, most)
        self._ends: dict[tuple[int, ...], int] = {}
        self._indexed = 0
        """Ends of n-grams below this have been seen."""
        self._failures = 0
        self._rest = 0
        self._asleep_until = 0

    def propose(self, tokens: Sequence[int], most: int) -> list[int]:
        """At most `most` tokens that may follow `tokens`, which must extend those of the last call."""
        count, n = len(tokens), self._n
        # An index of n-grams by their end, without the last one, which would only find itself.
        begin = max(n, self._indexed)
        stop = min(count, begin + _INDEX_AT_ONCE)
        for end in range(begin, stop):
            self._ends[tuple(tokens[end - n : end])] = end
        self._indexed = max(self._indexed, stop)
        wanted = min(most, self._length)
        if wanted < 1 or count < max(n, self._asleep_until):
            return []
        found = self._ends.get(tuple(tokens[count - n :]))
        if found is None:
            return []
        period = count - found
        return [tokens[found + i % period] for i in range(wanted)]

    def learn(self, drafted: int, accepted: int, length: int) -> None:
        """Of `drafted` tokens so many were right; the context now has `length` tokens."""
        if accepted:
            self._failures = self._rest = 0
            self._length = min(self._most, 2 * self._length if accepted == drafted else accepted + 1)
            return
        self._length = 1
        self._failures += 1
        if self._failures >= _FAILURES:
            self._failures = 0
            self._rest = min(_MOST_REST, 2 * self._rest or _REST)
            self._asleep_until = length + self._rest
