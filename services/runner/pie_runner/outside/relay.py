"""Calls of tool servers that the client runs on its own machine: to the gateway, which hands them to the client."""

from __future__ import annotations

from collections.abc import Callable

from pie_wire.errors import PieError
from pie_wire.hub import Answer, Hub, Scope
from pie_wire.messages.gateway import AskTool, ToolAnswered

GATEWAY = "gateway"


class ClientRelay:
    """Of one process. `seconds` bounds each call."""

    def __init__(self, hub: Hub, pid: str, scope: Scope, seconds: float) -> None:
        self._hub = hub
        self._pid = pid
        self._scope = scope
        self._seconds = seconds

    def ask(
        self, server: str, method: str, params: str, then: Callable[[str, PieError | None], None]
    ) -> Callable[[], None]:
        """Begin a call. Returns how to give it up: the client may still carry it out."""

        def answered(answer: Answer[ToolAnswered]) -> None:
            if answer.error is not None:
                then("", answer.error)
            else:
                then(answer.value().result, None)

        message = AskTool(self._pid, server, method, params)
        number = self._hub.request(GATEWAY, message, answered, timeout=self._seconds, scope=self._scope)
        return lambda: self._hub.cancel(number)
