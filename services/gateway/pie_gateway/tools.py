"""Tool servers that clients run on their own machines: a program's call goes to the client that owns its process, and
the answer back. Nothing of it is executed here."""

from __future__ import annotations

from collections import Counter

from pie_wire.errors import BadField, Gone, Overloaded, Unavailable
from pie_wire.hub import Answer, Hub, Incoming
from pie_wire.messages.client import CallTool
from pie_wire.messages.gateway import AskTool, ToolAnswered

from pie_gateway.table import ProcessTable

MAX_CALLS = 64
"""Of one process, under way."""
SLOW_BYTES = 64 << 20
"""Owed to a runner beyond which it is sent no more answers: clients must not cost it its link."""
LONGEST = 3600.0


class ToolRelay:
    def __init__(self, hub: Hub, table: ProcessTable) -> None:
        self._hub = hub
        self._table = table
        self._calls: Counter[str] = Counter()

    def ask(self, incoming: Incoming[AskTool]) -> None:
        """Hand a call on.

        Raises:
            BadField: the process is not with this runner. Gone: it has ended. Unavailable: no client owns it now.
            Overloaded: too many of its calls are under way.
        """
        message = incoming.message
        pid = message.pid
        process = self._table.get(pid)
        if process is None or process.record.ended:
            raise Gone(f"process {pid} has ended")
        if process.runner is None or process.runner.peer is not incoming.peer:
            raise BadField(f"process {pid} is not with this runner")
        session = process.owner
        if session is None or not session.alive or session.ask is None:
            raise Unavailable(f"the client that runs the tool server {message.server!r} is not there now")
        if self._calls[pid] >= MAX_CALLS:
            raise Overloaded(f"{MAX_CALLS} calls of process {pid} are with its client: wait for some")

        def answered(answer: Answer[ToolAnswered]) -> None:
            self._calls[pid] -= 1
            if not self._calls[pid]:
                del self._calls[pid]
            if answer.error is not None:
                incoming.fail(answer.error)
            elif self._hub.owed(incoming.peer) > SLOW_BYTES:
                incoming.fail(Overloaded("the answer came, but the runner is too slow to take it"))
            else:
                incoming.reply(answer.value())

        ttl = incoming.header.ttl / 1000
        request = CallTool(pid, message.server, message.method, message.params)
        session.ask(request, answered, min(ttl, LONGEST) if ttl > 0 else LONGEST)
        self._calls[pid] += 1
