"""Fair shares of a bounded resource. No I/O."""

from __future__ import annotations


class Shares:
    """An amount that owners take parts of. Nobody gets more than is left for all others, so one alone gets half, and
    there is something for a newcomer while those who were first still hold what they took."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.taken = 0
        """By all owners."""
        self._of: dict[str, int] = {}

    def of(self, owner: str) -> int:
        """What an owner has."""
        return self._of.get(owner, 0)

    def take(self, owner: str, amount: int = 1) -> bool:
        """Give an owner more. False, and nothing changes, if it would have more than there is left now."""
        has = self.of(owner) + amount
        if has > self.total - self.taken:
            return False
        self._of[owner] = has
        self.taken += amount
        return True

    def taker(self, owner: str) -> str | None:
        """Take one for an owner. The owner, or None if it gets none: how `Lines.take` asks."""
        return owner if self.take(owner) else None

    def give_back(self, owner: str, amount: int = 1) -> None:
        """What it took and needs no longer.

        Raises:
            ValueError: it has less than that.
        """
        left = self.of(owner) - amount
        if left < 0:
            raise ValueError(f"{owner} gives back {amount} and has {self.of(owner)}")
        self.taken -= amount
        if left:
            self._of[owner] = left
        else:
            self._of.pop(owner, None)
