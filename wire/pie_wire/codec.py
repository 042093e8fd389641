"""The one place that turns messages into frames and back.

A frame on the wire is `b"PIE1", verb, header, body, buffer*` (behind ROUTER/DEALER routing). Header and body are
MessagePack maps; buffers are raw bytes and never copied into MessagePack.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any, NamedTuple, cast

import msgspec

from pie_wire import PROTOCOL
from pie_wire.errors import BadField, BadFrame, ErrorInfo, PieError, TooLarge, UnknownVerb, VersionMismatch
from pie_wire.messages import client, engine, gateway, kvstore, link, runner
from pie_wire.messages.base import Done, Message

Buffer = bytes | memoryview
MAX_BODY_BYTES = 16 << 20
MAX_BUFFERS = 4096
MAX_BUFFER_BYTES = 64 << 20
MAX_VERB_BYTES = 64
OK = b"ok"
ERROR = b"error"


class Header(msgspec.Struct, frozen=True, omit_defaults=True):
    """Zero and empty fields are left out. `id` names a request, `re` the request this frame answers."""

    session: int = 0
    seq: int = 0
    """Number of this frame in its session and direction; 0: the link's own message."""
    ack: int = 0
    """Last number received in order."""
    id: int = 0
    re: int = 0
    ttl: int = 0
    """Milliseconds the sender will wait for the reply; 0: none expected."""
    tenant: str = "local"
    user: str = "local"
    trace: str = ""


class Frame(NamedTuple):
    """A decoded frame whose body is still bytes: its type may depend on the request it answers."""

    verb: bytes
    header: Header
    body: bytes
    buffers: Sequence[Buffer]


def _messages(*modules: ModuleType) -> Iterator[type[Message]]:
    for module in modules:
        for value in cast("dict[str, object]", vars(module)).values():
            if isinstance(value, type) and issubclass(value, Message) and value.verb:
                yield value


REGISTRY: dict[bytes, type[Message]] = {
    cls.verb.encode(): cls for cls in _messages(client, engine, gateway, kvstore, link, runner)
} | {b"done": Done}

_encoder = msgspec.msgpack.Encoder()
_header_decoder = msgspec.msgpack.Decoder(Header)
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What the decoder raises on bytes that are no MessagePack of the expected type."""
_decoders: dict[type[Any], msgspec.msgpack.Decoder[Any]] = {}


def _decoder(cls: type[Any]) -> msgspec.msgpack.Decoder[Any]:
    found = _decoders.get(cls)
    if found is None:
        found = _decoders[cls] = msgspec.msgpack.Decoder(cls)
    return found


def encode(verb: bytes, header: Header, body: bytes, buffers: Sequence[Buffer] = ()) -> list[Buffer]:
    """Frames ready for a socket."""
    return [PROTOCOL, verb, _encoder.encode(header), body, *buffers]


def encode_body(message: Message | ErrorInfo) -> bytes:
    """MessagePack of a body.

    Raises:
        TooLarge: beyond MAX_BODY_BYTES; large data belongs in buffers.
    """
    body = _encoder.encode(message)
    if len(body) > MAX_BODY_BYTES:
        raise TooLarge(f"message body of {len(body)} bytes exceeds {MAX_BODY_BYTES}: send large data as buffers")
    return body


def check_buffers(buffers: Sequence[Buffer]) -> None:
    """Refuse what the other side would refuse: a numbered frame that cannot be read blocks its link for good.

    Raises:
        TooLarge
    """
    if len(buffers) > MAX_BUFFERS:
        raise TooLarge(f"{len(buffers)} buffers exceed {MAX_BUFFERS}: send fewer, or join them")
    if any(memoryview(buffer).nbytes > MAX_BUFFER_BYTES for buffer in buffers):
        raise TooLarge(f"a buffer exceeds {MAX_BUFFER_BYTES} bytes: send it in chunks")


def parse(frames: Sequence[Buffer]) -> Frame:
    """Frame from socket parts, the routing already removed.

    Raises:
        BadFrame, VersionMismatch: not ours.
    """
    if len(frames) < 4:
        raise BadFrame(f"a frame has at least 4 parts, got {len(frames)}")
    marker = bytes(frames[0])
    if marker != PROTOCOL:
        if marker[:3] == PROTOCOL[:3]:
            raise VersionMismatch(f"peer speaks {marker!r}, this side {PROTOCOL!r}: upgrade the older one")
        raise BadFrame("missing protocol marker: is this a Pie peer?")
    if len(frames) - 4 > MAX_BUFFERS:
        raise BadFrame(f"more than {MAX_BUFFERS} buffers")
    if len(frames[1]) > MAX_VERB_BYTES or len(frames[3]) > MAX_BODY_BYTES:
        raise BadFrame("verb or body too long")
    try:
        header = _header_decoder.decode(frames[2])
    except _UNREADABLE as exc:
        raise BadFrame(f"unreadable header: {exc}") from exc
    return Frame(bytes(frames[1]), header, bytes(frames[3]), frames[4:])


def decode_body(cls: type[Any], body: bytes) -> Any:
    """Typed body.

    Raises:
        BadField: missing or wrongly typed, with the field's path.
    """
    try:
        return _decoder(cls).decode(body)
    except _UNREADABLE as exc:
        raise BadField(f"{getattr(cls, 'verb', '') or cls.__name__}: {exc}") from exc


def decode(frame: Frame) -> Message:
    """The message of a frame that is no reply.

    Raises:
        UnknownVerb, BadField
    """
    cls = REGISTRY.get(frame.verb)
    if cls is None:
        raise UnknownVerb(f"unknown verb {frame.verb!r}: the peer may be newer than this side")
    return decode_body(cls, frame.body)


def decode_error(body: bytes) -> ErrorInfo:
    """The error of an `error` reply; an unreadable one is reported as such, never swallowed."""
    try:
        return decode_body(ErrorInfo, body)
    except PieError as exc:
        return exc.info()
