"""The wire as a stranger speaks it: frames of any shape, and requests that the client library would not send."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, ClassVar, Self, TypeVar

import msgspec
import zmq
from pie_wire import PROTOCOL_VERSION
from pie_wire.codec import Buffer, Header, encode, encode_body, parse
from pie_wire.errors import PieError, from_info
from pie_wire.hub import Answer, Hub, Scope
from pie_wire.messages.base import Message, Request
from pie_wire.messages.link import Hello, Identity, Refused
from pie_wire.process import identity
from pie_wire.transport import Transport

R = TypeVar("R", bound=Message)


class Unheard(Request[Any], frozen=True):
    """A verb that no version knows."""

    verb: ClassVar[str] = "gw.unheard-of"


class Stranger:
    """A bare socket."""

    def __init__(self, endpoint: str) -> None:
        self._socket = zmq.Socket(zmq.Context.instance(), zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(endpoint)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def send(self, *frames: Buffer) -> None:
        self._socket.send_multipart([b"", *frames])

    def hello(self, major: int) -> None:
        who = Identity("client", "stranger", incarnation="0123456789abcdef")
        self.send(*encode(b"link.hello", Header(), encode_body(Hello(major, 0, who, attempt=1))))

    def refusal(self, within: float = 5.0) -> PieError:
        """The error that comes back."""
        assert self._socket.poll(int(within * 1000)), "no answer"
        frame = parse(self._socket.recv_multipart()[1:])
        assert frame.verb == b"link.refused", frame.verb
        return from_info(msgspec.msgpack.decode(frame.body, type=Refused).error)


class Caller:
    """A well-behaved link over which any request can go."""

    def __init__(self, endpoint: str) -> None:
        self._hub = Hub(identity("client", "caller"), time.monotonic)
        self._transport = Transport(self._hub)
        self._transport.dial("x", endpoint)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._transport.close()

    def ask(
        self, request: Request[R], buffers: Sequence[Buffer] = (), within: float = 10.0, scope: Scope | None = None
    ) -> R:
        """The reply. Raises the error it answers with."""
        answers: list[Answer[R]] = []
        then: Callable[[Answer[R]], None] = answers.append
        self._hub.request("x", request, then, timeout=within, buffers=buffers, scope=scope)
        while not answers:
            self._transport.poll(0.05)
        return answers[0].value()


NEXT_MAJOR = PROTOCOL_VERSION[0] + 1
