"""How many guesses are worth trying."""

from __future__ import annotations

from math import log

_FIRST = 4
_MEMORY = 0.95
"""What an observation counts for after one more."""
_DOUBT = 0.5
"""Right guesses in one that are assumed before any was tried."""
_REST = 32
"""Tokens until the next trial when guesses do not pay; twice as many after a wrong one, a quarter after a right one."""
_MOST_REST = 512


class Pace:
    """Weighs what a guess costs against how often this run's guesses are right.

    A guess counts only if all before it are right, so the k-th is right with the k-th power of the rate at which one
    is; it is tried while that is at least what its row must be worth. Beside that their number follows success: twice
    as many after a round that was right throughout, as many as were right and one more after another. Where not even
    one guess pays, a single one is tried now and then, at distances that grow while it is wrong.

    Guesses never change which tokens a run gives, so this is no part of a context's state.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._wanted = min(_FIRST, most)
        self._right = 0.0
        self._tried = 0.0
        self._least = 0.0
        self._rest = _REST // 2
        self._next = 0

    @property
    def rate(self) -> float:
        """Estimated probability that a guess is right when all before it are."""
        return (self._right + _DOUBT) / (self._tried + 1.0)

    def wanted(self, length: int, least: float) -> int:
        """Guesses to try behind a context of `length` tokens, each right with a probability of `least` or more."""
        self._least = least
        if self.rate < least:
            return int(length >= self._next)
        worth = self.most if least <= 0.0 or self.rate >= 1.0 else int(log(least) / log(self.rate))
        return min(self._wanted, max(1, worth))

    def learn(self, tried: int, right: int, length: int) -> None:
        """Of `tried` guesses so many were right; the context now has `length` tokens."""
        seen = right + (right < tried)
        kept = _MEMORY**seen
        self._right = kept * self._right + right
        self._tried = kept * self._tried + seen
        if right:
            self._wanted = min(self.most, 2 * self._wanted if right == tried else right + 1)
        else:
            self._wanted = 1
        if self.rate < self._least:
            self._rest = max(_REST, self._rest // 4) if right else min(_MOST_REST, 2 * self._rest)
            self._next = length + self._rest
        else:
            self._rest = _REST // 2
