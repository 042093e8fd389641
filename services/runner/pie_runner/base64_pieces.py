"""Base64 of megabytes, piece by piece: no other thread of this process runs while the library works on a piece, nor
while one large object is joined or copied (45 ms for 64 MiB, 110 ms to encode them, on the machine of
docs/security.md).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from io import BytesIO

from pie_wire.codec import Buffer
from pie_wire.errors import BadRequest

PIECE = 768 << 10
"""Bytes, a multiple of three: about 3 ms."""


def decoded_pieces(text: str, what: str, size: int = PIECE) -> Iterator[bytes]:
    """The bytes of base64 text, of which each piece but the last has `size`: a multiple of three.

    Raises:
        BadRequest: it is no base64; `what` names it.
    """
    length = size // 3 * 4
    for at in range(0, len(text) or 1, length):
        try:
            piece = base64.b64decode(text[at : at + length], validate=True)
        except (binascii.Error, ValueError) as exc:
            raise BadRequest(f"{what} is not base64: {exc}") from exc
        if len(piece) < size and at + length < len(text):
            raise BadRequest(f"{what} is not base64: it is padded before its end")
        yield piece


def decoded(text: str, what: str) -> bytes:
    """All of them together. Raises the same."""
    whole = BytesIO()
    for piece in decoded_pieces(text, what):
        whole.write(piece)
    return whole.getvalue()


class Base64Text:
    """Base64, as ASCII, of bytes that come in parts of any size."""

    def __init__(self) -> None:
        self._text = BytesIO()
        self._rest = b""
        """What does not fill a group of three waits for more."""

    def add(self, part: Buffer) -> None:
        """The next bytes."""
        view = memoryview(part)
        start = -len(self._rest) % 3
        if start:
            self._rest += bytes(view[:start])
            if len(self._rest) < 3:
                return
            self._text.write(base64.b64encode(self._rest))
        end = start + (len(view) - start) // 3 * 3
        for at in range(start, end, PIECE):
            self._text.write(base64.b64encode(view[at : min(at + PIECE, end)]))
        self._rest = bytes(view[end:])

    def whole(self) -> bytes:
        """The text. Nothing can be added afterwards."""
        self._text.write(base64.b64encode(self._rest))
        return self._text.getvalue()


def encoded(*parts: Buffer) -> bytes:
    """Base64, as ASCII, of these bytes together."""
    text = Base64Text()
    for part in parts:
        text.add(part)
    return text.whole()
