"""Requests of programs on the fibers' loop: what has come of each, and the limits of how many there are."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from pie_wire.errors import ErrorInfo, PieError

from pie_runner.outside.aside import Aside
from pie_runner.outside.http_client import WINDOW, Head, HttpClient, Order
from pie_runner.waitables import Waitable, Waitables


class Fetch:
    """One request under way, as a Receiver of what the loop aside hears. Its state belongs to the fibers' loop."""

    def __init__(self, client: HttpClient, order: Order, aside: Aside, on_end: Callable[[], None]) -> None:
        self.answer: Head | PieError | None = None
        self.pieces: deque[bytes] = deque()
        self.ended = False
        self.error: PieError | None = None
        self.listener: Callable[[], None] = lambda: None
        self.aside = aside
        self._on_end = on_end
        self._credit = asyncio.Semaphore(WINDOW)
        self._cancel = aside.start(client.fetch(order, self, self._credit))

    # -- heard aside

    def head(self, head: Head) -> None:
        self.aside.post(lambda: self._heard(head))

    def piece(self, piece: bytes) -> None:
        self.aside.post(lambda: self._came(piece))

    def end(self, error: PieError | None) -> None:
        self.aside.post(lambda: self._over(error))

    # -- asked by the program

    def take(self) -> bytes | None:
        """The next piece, None if there is none now."""
        if not self.pieces:
            return None
        self.aside.call(self._credit.release)
        return self.pieces.popleft()

    def cancel(self) -> None:
        """Close the connection; nothing more is heard."""
        self._cancel()
        self.listener = lambda: None
        self.pieces.clear()
        self._finish()

    def _heard(self, head: Head) -> None:
        if not self.ended:
            self.answer = head
            self.listener()

    def _came(self, piece: bytes) -> None:
        if not self.ended:
            self.pieces.append(piece)
            self.listener()

    def _over(self, error: PieError | None) -> None:
        if self.ended:
            return
        self.error = error
        if self.answer is None:
            self.answer = error
        self._finish()
        self.listener()

    def _finish(self) -> None:
        if not self.ended:
            self.ended = True
            self._on_end()


class PendingResponse(Waitable):
    """The WIT's `pending-response`: its response once, or why there is none."""

    def __init__(self, table: Waitables, fetch: Fetch) -> None:
        super().__init__(table)
        self._table_of_response = table
        self._fetch: Fetch | None = fetch
        fetch.listener = self.notify

    @property
    def ready(self) -> bool:
        return self._fetch is None or self._fetch.answer is not None

    @property
    def is_taken(self) -> bool:
        return self._fetch is None

    def take(self) -> Response | PieError | None:
        """None until there is an answer; to be called until there is one, and no more."""
        fetch = self._fetch
        if fetch is None or fetch.answer is None:
            return None
        self._fetch = None
        if isinstance(fetch.answer, PieError):
            return fetch.answer
        return Response(self._table_of_response, fetch, fetch.answer)

    def close(self) -> None:
        super().close()
        fetch, self._fetch = self._fetch, None
        if fetch is not None:
            fetch.cancel()


class Response(Waitable):
    """The WIT's `response`."""

    def __init__(self, table: Waitables, fetch: Fetch, head: Head) -> None:
        super().__init__(table)
        self.head = head
        self._fetch = fetch
        fetch.listener = self.notify

    @property
    def ready(self) -> bool:
        return bool(self._fetch.pieces) or self._fetch.ended

    def read(self) -> bytes | ErrorInfo | None:
        """The next piece; empty at the end; an error in its place; None while there is nothing."""
        piece = self._fetch.take()
        if piece is not None:
            return piece
        if not self._fetch.ended:
            return None
        return b"" if self._fetch.error is None else self._fetch.error.info()

    def close(self) -> None:
        super().close()
        self._fetch.cancel()
