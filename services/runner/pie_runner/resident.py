"""Rows of logits that programs hold in the host."""

from __future__ import annotations

from pie_runner.limits import RowLease, Usage
from pie_runner.logits import Logits


class Resident:
    """The WIT's `logits`: a row, and its part of what its process may hold."""

    __slots__ = ("_lease", "_usage", "row")

    def __init__(self, row: Logits, usage: Usage) -> None:
        """Raises LimitExceeded when the process holds too much."""
        self._lease: RowLease = usage.lease_rows(4 * row.vocab)
        self._usage = usage
        self.row = row

    def fork(self) -> Resident:
        """A copy. Raises LimitExceeded when the process holds too much."""
        return Resident(self.row.fork(), self._usage)

    def close(self) -> None:
        """The handle is gone."""
        self._lease.close()
