"""Guesses from the context itself: what followed the last time the same tokens occurred."""

from __future__ import annotations

from collections.abc import Sequence

_INDEX_AT_ONCE = 4096


class PromptLookup:
    """Prompt lookup decoding (Saxena, 2023): the last `n` tokens are looked up in the context, and the tokens after
    their latest earlier occurrence are proposed, running on into themselves where the context repeats."""

    def __init__(self, n: int) -> None:
        self._n = n
        self._ends: dict[tuple[int, ...], int] = {}
        self._indexed = 0
        """Ends of n-grams below this have been seen."""

    def propose(self, tokens: Sequence[int], most: int) -> list[int]:
        """At most `most` tokens that may follow `tokens`, which must extend those of the last call."""
        count, n = len(tokens), self._n
        # An index of n-grams by their end, without the last one, which would only find itself.
        begin = max(n, self._indexed)
        stop = min(count, begin + _INDEX_AT_ONCE)
        for end in range(begin, stop):
            self._ends[tuple(tokens[end - n : end])] = end
        self._indexed = max(self._indexed, stop)
        if most < 1 or count < n:
            return []
        found = self._ends.get(tuple(tokens[count - n :]))
        if found is None:
            return []
        period = count - found
        return [tokens[found + i % period] for i in range(most)]
