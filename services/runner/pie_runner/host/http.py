"""HTTP."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar, cast

from pie_wire.errors import BadRequest, Closed, ErrorInfo, PieError

from pie_runner.base64_pieces import decoded
from pie_runner.host import checks
from pie_runner.host.clocks import SECOND
from pie_runner.host.futures import waitable_id
from pie_runner.host.methods import method, reading
from pie_runner.host.offloaded import offloaded
from pie_runner.outside.fetches import PendingResponse, Response
from pie_runner.outside.uploads import Upload
from pie_runner.process import process_of
from pie_runner.wasm.hostcall import Err, HostFunction, Ok, Pending

if TYPE_CHECKING:
    from pie_runner.waitables import Completion
    from pie_runner.wasm.fiber import Fiber

T = TypeVar("T")

MAX_URL = 16 << 10
MAX_HEADERS = 128
MAX_HEADER_CHARACTERS = 32 << 10
MAX_REDIRECTS = 20
INLINE = 1 << 20
"""Characters of a body that are decoded on the loop."""

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_OF_THE_CONNECTION = frozenset(
    ["host", "content-length", "transfer-encoding", "connection", "keep-alive", "upgrade", "te", "trailer", "expect"]
)
"""Headers that say where and how a message ends: the host writes them."""


class RequestRecord(Protocol):
    """The WIT's `request`."""

    @property
    def method(self) -> str: ...
    @property
    def url(self) -> str: ...
    @property
    def headers(self) -> Sequence[tuple[str, str]]: ...
    @property
    def body(self) -> str | None: ...
    @property
    def timeout(self) -> int | None: ...
    @property
    def redirects(self) -> int: ...


def send(fiber: Fiber, request: RequestRecord) -> PendingResponse | Pending:
    """Begin a request; parks while a large body is decoded."""
    order = _read(request)
    outside = process_of(fiber).outside
    return _with_body(fiber, request, lambda body: outside.send(*order[:3], body, *order[3:]))


def begin(fiber: Fiber, request: RequestRecord, length: int | None) -> Upload | Pending:
    """Begin a request whose body is written afterwards."""
    order = _read(request)
    outside = process_of(fiber).outside
    return _with_body(fiber, request, lambda body: outside.upload(*order[:3], body, *order[3:], length))


def write(_fiber: Fiber, upload: Upload, piece: str) -> Completion:
    """Send a piece."""
    return upload.write(decoded(checks.text(piece, "the piece", INLINE), "the piece"))


def get(_fiber: Fiber, pending: PendingResponse) -> Ok | Err | None:
    """The response, once."""
    if pending.is_taken:
        return Err(Closed("this response was already got").info())
    answer = pending.take()
    if answer is None:
        return None
    return Err(answer.info()) if isinstance(answer, PieError) else Ok(answer)


def read(_fiber: Fiber, response: Response) -> Ok | Err | None:
    """The next piece."""
    piece = response.read()
    if piece is None:
        return None
    return Err(piece) if isinstance(piece, ErrorInfo) else Ok(base64.b64encode(piece).decode("ascii"))


def _read(request: RequestRecord) -> tuple[str, str, list[tuple[str, str]], float | None, int]:
    """Method, URL, headers, seconds and redirects. Raises BadRequest, TooLarge."""
    if len(request.method) > 32 or not _TOKEN.fullmatch(request.method):
        raise BadRequest(f"{request.method[:40]!r} is no HTTP method")
    checks.text(request.url, "the URL", MAX_URL)
    headers = _checked(request.headers)
    seconds = None if request.timeout is None else request.timeout / SECOND
    return request.method.upper(), request.url, headers, seconds, min(request.redirects, MAX_REDIRECTS)


def _with_body(fiber: Fiber, request: RequestRecord, go_on: Callable[[bytes], T]) -> T | Pending:
    """Decode the body and go on; a large one is decoded beside the loop."""
    text = request.body or ""
    process_of(fiber).outside.check_request_body(len(text) // 4 * 3 - 2)
    if len(text) <= INLINE:
        return go_on(decoded(text, "the body"))
    pending = offloaded(fiber, lambda: decoded(text, "the body"))
    pending.convert = lambda body: go_on(cast("bytes", body))
    return pending


def _checked(headers: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    if len(headers) > MAX_HEADERS or sum(len(name) + len(value) for name, value in headers) > MAX_HEADER_CHARACTERS:
        raise BadRequest(f"a request has at most {MAX_HEADERS} headers, of {MAX_HEADER_CHARACTERS} characters together")
    for name, value in headers:
        if not _TOKEN.fullmatch(name) or not _VALUE.fullmatch(value):
            raise BadRequest(f"{name[:80]!r} is no HTTP header, or its value has characters that no header may have")
        if name.lower() in _OF_THE_CONNECTION or name.lower().startswith("proxy-"):
            raise BadRequest(f"the header {name} is written by the host")
    return [(name, value) for name, value in headers]


FUNCTIONS: Mapping[str, HostFunction] = {
    "send": send,
    "begin": begin,
    "[method]upload.write": write,
    "[method]upload.finish": method(Upload.finish),
    "[method]pending-response.id": waitable_id,
    "[method]pending-response.get": get,
    "[method]response.id": waitable_id,
    "[method]response.status": reading(Response, lambda response: response.head.status),
    "[method]response.url": reading(Response, lambda response: response.head.url),
    "[method]response.headers": reading(Response, lambda response: response.head.headers),
    "[method]response.read": read,
}
