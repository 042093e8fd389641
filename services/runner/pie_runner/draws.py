"""Random bytes of a process: unpredictable from outside, repeatable from the recorded key."""

from __future__ import annotations

import hashlib


class Draws:
    """SHAKE-256 in counter mode over a key that the process's first event records."""

    def __init__(self, key: bytes) -> None:
        self.key = key
        self._count = 0

    def take(self, count: int) -> bytes:
        """The next `count` bytes; every call is an independent block."""
        self._count += 1
        return hashlib.shake_256(self.key + self._count.to_bytes(8, "little")).digest(count)

    def seed(self) -> int:
        """A fresh seed of 63 bits for a generation that names none."""
        return int.from_bytes(self.take(8), "little") >> 1

    def uniform(self) -> float:
        """A number in (0, 1) for a draw of the host's."""
        return ((int.from_bytes(self.take(8), "little") >> 12) + 0.5) * 2.0**-52
