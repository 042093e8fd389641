"""The supervisor's view of the stack from inside: who has joined, and in what state."""

from __future__ import annotations

import time

import structlog
from pie_wire.hub import Answer, Hub
from pie_wire.messages.common import MemberInfo
from pie_wire.messages.kvstore import ListMembers, MemberList
from pie_wire.process import identity
from pie_wire.transport import Transport

KVSTORE = "kvstore"
ASK_EVERY = (0.1, 1.0)
"""Seconds between questions: while something is awaited, and otherwise."""

log = structlog.get_logger("pie.supervisor")


class Probe:
    """A link to kvstore that asks for the member list now and then. It joins nothing and holds no lease."""

    def __init__(self, kvstore: str) -> None:
        self.members: list[MemberInfo] = []
        """The last answer; empty while kvstore is away."""
        self._kvstore = kvstore
        self._transport = Transport(Hub(identity("supervisor", "supervisor"), time.monotonic))
        self._asked = False
        self._ask_at = 0.0

    def poll(self, seconds: float, *, eager: bool) -> None:
        """Wait, take in what comes, ask when due."""
        hub = self._transport.hub
        self._transport.dial(KVSTORE, self._kvstore)
        now = time.monotonic()
        if not self._asked and now >= self._ask_at and hub.peer(KVSTORE) is not None:
            self._asked, self._ask_at = True, now + ASK_EVERY[0 if eager else 1]
            hub.request(KVSTORE, ListMembers(), self._answered, timeout=2.0)
        self._transport.poll(seconds)

    def find(self, name: str, pid: int) -> MemberInfo | None:
        """The member of this name, if it is this very process."""
        return next((m for m in self.members if m.name == name and m.pid == pid and m.state != "lost"), None)

    def close(self) -> None:
        self._transport.close()

    def _answered(self, answer: Answer[MemberList]) -> None:
        self._asked = False
        if answer.error is not None:
            self.members = []
            log.debug("no member list", reason=answer.error.message)
        else:
            self.members = answer.value().members
