"""A process launched from inside the gateway, for one HTTP request; it ends with the request."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from types import TracebackType

from pie_wire.errors import DeadlineExceeded, PeerLost, PieError
from pie_wire.hub import Answer
from pie_wire.messages.base import Push
from pie_wire.messages.client import ProcessEvents
from pie_wire.messages.common import TERMINAL_KINDS, Event
from pie_wire.messages.gateway import AckEvents, Launch, Launched

from pie_gateway.core import GatewayCore
from pie_gateway.session import Session

ACK_EVERY = 64


class LocalRun:
    """An in-process session with one process. Leaving the context ends the process if it still runs.

    `soon` lets what the core has queued leave. The buffer is bounded by the attach window of the core.
    """

    def __init__(self, core: GatewayCore, soon: Callable[[], None], *, timeout: float) -> None:
        self._core = core
        self._soon = soon
        self._timeout = timeout
        self._events: asyncio.Queue[Event | PieError] = asyncio.Queue()
        self._session = Session("http", self._take)
        self._timer: asyncio.TimerHandle | None = None
        self._pid = secrets.token_hex(16)
        self._acked = 0

    async def launch(self, program: str, text: str) -> None:
        """Start `program` with a JSON input.

        Raises:
            PieError: it was not accepted.
        """
        loop = asyncio.get_running_loop()
        accepted: asyncio.Future[Answer[Launched]] = loop.create_future()

        def answered(answer: Answer[Launched]) -> None:
            if not accepted.done():
                accepted.set_result(answer)

        late = DeadlineExceeded(f"not finished within {self._timeout:g} s")
        self._timer = loop.call_later(self._timeout, self.close, late)
        launch = Launch(self._pid, program, text, attach=True, on_disconnect="terminate")
        self._core.submit(self._session, launch, answered)
        self._soon()
        (await accepted).value()

    async def events(self) -> AsyncIterator[Event]:
        """Events up to and including the terminal one.

        Raises:
            PieError: the run was closed before that.
        """
        while True:
            event = await self._events.get()
            if isinstance(event, PieError):
                raise event
            yield event
            if self._events.empty() or event.seq - self._acked >= ACK_EVERY:
                self._acked = event.seq
                self._core.notify(self._session, AckEvents([self._pid], [event.seq]))
            if event.kind in TERMINAL_KINDS:
                return

    def close(self, cause: PieError | None = None) -> None:
        """End the session, and with it the process. A waiting reader of events gets `cause`."""
        if self._timer is not None:
            self._timer.cancel()
        if self._session.alive:
            cause = cause or PeerLost("the HTTP request is over")
            self._core.close_session(self._session, cause)
            self._events.put_nowait(cause)
            self._soon()

    async def __aenter__(self) -> LocalRun:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _take(self, push: Push) -> None:
        if isinstance(push, ProcessEvents):
            for event in push.events:
                self._events.put_nowait(event)
