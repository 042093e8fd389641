"""HTTP, to hosts that the program's manifest asks for and the operator grants.

answer = await http.get("https://api.example.com/weather", headers={"accept": "application/json"})
answer.status, answer.headers["content-type"], await answer.json()

with await http.get(url) as answer:
    async for piece in answer:
        ...
"""

from __future__ import annotations

import base64
import json as json_module
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping
from typing import Any

from wit_world.imports import http as raw

from inferlet import loop
from inferlet.errors import PieError, host_errors, unwrap

REDIRECTS = 5
_PIECE = 512 << 10


class Response:
    """The status and headers are here; the body comes as it is read. Dropping it closes the connection."""

    def __init__(self, handle: raw.Response) -> None:
        self._handle = handle
        self.status: int = handle.status()
        self.url: str = handle.url()
        """After redirects."""
        self.headers: dict[str, str] = {}
        """Names in lower case; of a name that came several times all values, joined by commas."""
        for name, value in handle.headers():
            self.headers[name] = f"{self.headers[name]}, {value}" if name in self.headers else value

    def __repr__(self) -> str:
        return f"Response({self.status}, {self.url!r})"

    @property
    def ok(self) -> bool:
        """Whether the status is below 400."""
        return self.status < 400

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """The body, piece by piece. A server whose body is not read waits."""
        while True:
            while (got := self._handle.read()) is None:
                await loop.ready(self._handle.id())
            piece = base64.b64decode(unwrap(got))
            if not piece:
                return
            yield piece

    async def read(self) -> bytes:
        """What is left of the body."""
        return b"".join([piece async for piece in self])

    async def text(self) -> str:
        """The same as text, in UTF-8."""
        return (await self.read()).decode("utf-8", "replace")

    async def json(self) -> Any:
        """The same, from JSON. Raises ValueError."""
        return json_module.loads(await self.read())

    def raise_for_status(self) -> Response:
        """Raise PieError `unavailable` for a status of 400 or more; else the response."""
        if not self.ok:
            raise PieError("unavailable", f"{self.url} answered with status {self.status}.", self.status >= 500)
        return self

    def close(self) -> None:
        """Read no more. May be called again."""
        self._handle.__exit__(None, None, None)

    def __enter__(self) -> Response:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


async def request(
    method: str,
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    body: bytes | str | Iterable[bytes] | AsyncIterable[bytes] | None = None,
    length: int | None = None,
    json: Any = None,
    timeout: float | None = None,  # noqa: ASYNC109 - the host enforces it
    redirects: int = REDIRECTS,
) -> Response:
    """Send a request; its response once the headers are here. A status of 400 or more is no error.

    `json` is sent as JSON. A `body` that is iterated is sent as it comes, in chunks or, with its `length` (bytes),
    without: a server that reads slowly is waited for, and redirects that would need it again are not followed.
    `timeout`: seconds until the whole response is here. Raises PieError: `forbidden` (the message says what to ask
    for), `unavailable`, `deadline_exceeded`, `limit_exceeded`, `bad_request`.
    """
    fields = dict(headers or {})
    if json is not None:
        body = json_module.dumps(json)
        if "content-type" not in {name.lower() for name in fields}:
            fields["content-type"] = "application/json"
    data = body.encode() if isinstance(body, str) else body
    whole = isinstance(data, bytes | bytearray | memoryview)
    encoded = base64.b64encode(data).decode("ascii") if whole else None
    nanoseconds = None if timeout is None else max(0, round(timeout * 1e9))
    asked = raw.Request(method, url, list(fields.items()), encoded, nanoseconds, redirects)
    if whole or data is None:
        with host_errors():
            pending = raw.send(asked)
    else:
        pending = await _uploaded(asked, length, data)
    with pending:
        return Response(unwrap(await loop.result(pending)))


async def _uploaded(
    asked: raw.Request, length: int | None, body: Iterable[bytes] | AsyncIterable[bytes]
) -> raw.PendingResponse:
    """Write a body piece by piece."""
    with host_errors():
        upload = raw.begin(asked, length)
    with upload:
        async for piece in body if isinstance(body, AsyncIterable) else _each(body):
            if not await _write(upload, piece):
                break
        with host_errors():
            return upload.finish()


async def _each(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def _write(upload: raw.Upload, data: bytes) -> bool:
    """Send a part of a body and wait until there is room for more. False: there is a response already."""
    for at in range(0, len(data), _PIECE):
        piece = base64.b64encode(data[at : at + _PIECE]).decode("ascii")
        try:
            with host_errors():
                done = upload.write(piece)
            with done:
                unwrap(await loop.result(done))
        except PieError as exc:
            if exc.code == "closed":
                return False
            raise
    return True


async def get(url: str, **options: Any) -> Response:
    """`request("GET", url, ...)`."""
    return await request("GET", url, **options)


async def post(url: str, **options: Any) -> Response:
    """`request("POST", url, ...)`."""
    return await request("POST", url, **options)
