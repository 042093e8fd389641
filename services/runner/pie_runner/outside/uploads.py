"""Bodies of requests that programs write piece by piece: as much waits for a server as has room, then its program."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from pie_wire.errors import BadRequest, Closed, Overloaded, PieError

from pie_runner.outside.fetches import Fetch, PendingResponse
from pie_runner.waitables import Completion, Waitables

ROOM = 256 << 10
"""Bytes that may wait for the server."""


class Body:
    """The pieces, on their way: `put` is called aside, `sent` too, each time the connection has taken a piece."""

    def __init__(self) -> None:
        self._pieces: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.sent: Callable[[int], None] = lambda size: None

    def put(self, piece: bytes | None) -> None:
        """The next piece; None is the end."""
        self._pieces.put_nowait(piece)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (piece := await self._pieces.get()) is not None:
            yield piece
            self.sent(len(piece))


class Upload:
    """The WIT's `upload`. The fetch has begun, and reads what is put into its body."""

    def __init__(
        self,
        table: Waitables,
        fetch: Fetch,
        body: Body,
        length: int | None,
        check: Callable[[int], None],
    ) -> None:
        self._table = table
        self._fetch: Fetch | None = fetch
        self._body = body
        self._length = length
        self._check = check
        self._written = 0
        self._waiting = 0
        self._done: Completion | None = None
        body.sent = lambda size: fetch.aside.post(lambda: self._sent(size))
        fetch.listener = self._heard

    def write(self, piece: bytes) -> Completion:
        """Send a piece; complete when there is room again.

        Raises:
            Closed, Overloaded: see the WIT. LimitExceeded: the body is too large. BadRequest: longer than was said.
        """
        fetch = self._open()
        if self._done is not None and not self._done.ready:
            raise Overloaded("an earlier write to this upload is not complete: wait for it")
        self._raise_answer(fetch)
        size = self._written + len(piece)
        self._check(size)
        if self._length is not None and size > self._length:
            raise BadRequest(f"{size} bytes were written to an upload of {self._length}")
        done = Completion(self._table)
        self._done = done
        self._written = size
        if piece:
            self._waiting += len(piece)
            fetch.aside.call(lambda: self._body.put(piece))
        self._sent(0)
        return done

    def finish(self) -> PendingResponse:
        """What comes of it. Raises Closed, BadRequest."""
        fetch = self._open()
        if self._length is not None and self._written != self._length and fetch.answer is None:
            raise BadRequest(f"{self._written} bytes were written to an upload of {self._length}")
        self._fetch = None
        if self._done is not None:
            self._done.complete()
        fetch.aside.call(lambda: self._body.put(None))
        return PendingResponse(self._table, fetch)

    def close(self) -> None:
        """Cancel the request, unless it was finished."""
        fetch, self._fetch = self._fetch, None
        if fetch is not None:
            fetch.cancel()

    def _open(self) -> Fetch:
        if self._fetch is None:
            raise Closed("this upload was already finished")
        return self._fetch

    def _sent(self, size: int) -> None:
        self._waiting -= size
        if self._done is not None and self._waiting < ROOM:
            self._done.complete()

    def _heard(self) -> None:
        """The response began, or there is none: nobody waits for the body any more."""
        if self._done is not None and self._fetch is not None:
            try:
                self._raise_answer(self._fetch)
            except PieError as exc:
                self._done.complete(exc)

    def _raise_answer(self, fetch: Fetch) -> None:
        if isinstance(fetch.answer, PieError):
            raise fetch.answer
        if fetch.answer is not None:
            raise Closed("the response came before the end of the body: `finish` gives it")
