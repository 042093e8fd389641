"""What has arrived since the last step border, bounded per runner."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from pie_wire.errors import Overloaded
from pie_wire.hub import Peer

MOST_OPERATIONS = 262_144
MOST_BYTES = 64 << 20
"""Of one runner's messages, as they travelled."""

T = TypeVar("T")


@dataclass(slots=True)
class _Held:
    operations: int = 0
    size: int = 0


class Inbox(Generic[T]):
    """Messages of all peers in the order of their arrival; None is a peer's end."""

    def __init__(self) -> None:
        self._items: deque[tuple[Peer, T | None, int, int]] = deque()
        self._held: dict[Peer, _Held] = {}

    def __bool__(self) -> bool:
        return bool(self._items)

    def put(self, peer: Peer, message: T, *, operations: int, size: int) -> None:
        """Keep a message until the next step border.

        Raises:
            Overloaded: this peer would have more waiting than a peer may; the message is not kept.
        """
        held = self._held.setdefault(peer, _Held())
        if held.operations + operations > MOST_OPERATIONS:
            raise Overloaded(f"more than {MOST_OPERATIONS} operations wait for a step border: send fewer per step")
        if held.size + size > MOST_BYTES:
            raise Overloaded(f"more than {MOST_BYTES >> 20} MiB wait for a step border: send less per step")
        held.operations += operations
        held.size += size
        self._items.append((peer, message, operations, size))

    def ended(self, peer: Peer) -> None:
        """Its link is down; what it sent before is still handed out."""
        self._items.append((peer, None, 0, 0))

    def drain(self) -> Iterator[tuple[Peer, T | None]]:
        """Everything, oldest first, also what arrives meanwhile."""
        while self._items:
            peer, message, operations, size = self._items.popleft()
            held = self._held.get(peer)
            if held is not None:
                held.operations -= operations
                held.size -= size
                if message is None or (not held.operations and not held.size):
                    del self._held[peer]
            yield peer, message
