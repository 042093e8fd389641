"""Questions to kvstore, with one kind of error for its absence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from pie_wire.codec import Buffer
from pie_wire.errors import DeadlineExceeded, PeerLost, PieError, StoreUnavailable, Unavailable
from pie_wire.hub import Answer, Hub, Scope
from pie_wire.membership import KVSTORE
from pie_wire.messages.base import Message, Request

R = TypeVar("R", bound=Message)

TIMEOUT = 5.0


class Store:
    """kvstore as the gateway sees it."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    @property
    def is_up(self) -> bool:
        return self._hub.peer(KVSTORE) is not None

    def ask(
        self,
        request: Request[R],
        then: Callable[[R], None],
        fail: Callable[[PieError], None],
        *,
        scope: Scope | None = None,
        buffers: Sequence[Buffer] = (),
    ) -> None:
        """One of `then` and `fail` is called, once; `fail` at once if the question cannot be sent. A kvstore that is
        away or does not answer is StoreUnavailable."""

        def answered(answer: Answer[R]) -> None:
            if answer.error is None:
                then(answer.value())
            elif type(answer.error) in (Unavailable, PeerLost, DeadlineExceeded):
                reason = f"kvstore does not answer ({answer.error.message}): try again when it is back"
                fail(StoreUnavailable(reason, cause=answer.error.code))
            else:
                fail(answer.error)

        try:
            self._hub.request(KVSTORE, request, answered, timeout=TIMEOUT, scope=scope, buffers=buffers)
        except PieError as exc:
            fail(exc)
