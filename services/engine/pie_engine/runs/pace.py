"""How many guesses are worth trying."""

from __future__ import annotations

_FIRST = 4
_FAILURES = 3
"""Rounds in a row without a right guess before guessing rests."""
_REST = 16
_MOST_REST = 512


class Pace:
    """Follows success: twice as many guesses after a round that was right throughout, as many as were right and one
    more after another; after three rounds without success none for 16 tokens, then for 32, up to 512.

    Guesses never change which tokens a run gives, so this is no part of a context's state.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._wanted = min(_FIRST, most)
        self._failures = 0
        self._rest = 0
        self._asleep_until = 0

    def wanted(self, length: int) -> int:
        """Guesses to try behind a context of `length` tokens."""
        return self._wanted if length >= self._asleep_until else 0

    def learn(self, tried: int, right: int, length: int) -> None:
        """Of `tried` guesses so many were right; the context now has `length` tokens."""
        if right:
            self._failures = self._rest = 0
            self._wanted = min(self.most, 2 * self._wanted if right == tried else right + 1)
            return
        self._wanted = 1
        self._failures += 1
        if self._failures >= _FAILURES:
            self._failures = 0
            self._rest = min(_MOST_REST, 2 * self._rest or _REST)
            self._asleep_until = length + self._rest
