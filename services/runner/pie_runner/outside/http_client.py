"""Requests of one process, made on the loop aside: checked, bounded in size and time, streamed as fast as read.

send [-> pieces of the body] -> [redirect, checked again] -> head -> pieces, at most WINDOW unread -> end
"""

from __future__ import annotations

import asyncio
import http.cookiejar
import ssl
from collections.abc import AsyncIterable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import httpcore
import httpx
import structlog
from pie_wire.errors import BadRequest, DeadlineExceeded, LimitExceeded, PieError, Unavailable, to_error

from pie_runner.outside.http_rights import HttpRights
from pie_runner.outside.http_transport import CheckedTransport, Resolve
from pie_runner.outside.resolver import Resolver
from pie_runner.outside.turnstile import Turnstile
from pie_runner.process_limits import ProcessLimits

_DEFAULTS = {"user-agent": "pie", "accept": "*/*", "accept-encoding": "identity"}

log = structlog.get_logger("pie.http")

PIECE = 64 << 10
WINDOW = 4
"""Pieces that may wait for the program."""


@dataclass(frozen=True)
class HttpSettings:
    """For all processes of a runner together."""

    all_requests: int = 512
    """At once, shared fairly among tenants; more wait."""
    ca_file: str = ""
    """Certificates to trust besides the usual ones."""


@dataclass(frozen=True)
class Order:
    """A request that has been checked as far as it can be without asking anybody."""

    request: httpx.Request
    seconds: float
    redirects: int
    is_replayable: bool = True
    """Whether its body can be sent to a second address."""


@dataclass(frozen=True)
class Head:
    """What is known of a response before its body."""

    status: int
    url: str
    headers: list[tuple[str, str]]


class Receiver(Protocol):
    """Whom a response is for; called on the loop aside."""

    def head(self, head: Head) -> None: ...
    def piece(self, piece: bytes) -> None: ...
    def end(self, error: PieError | None) -> None: ...


class HttpShared:
    """What all processes of a runner share. The room belongs to the loop aside."""

    def __init__(self, settings: HttpSettings, resolve_of: Callable[[str], Resolve] | None = None) -> None:
        """`resolve_of` finds addresses for a tenant, else the system's resolver."""
        self.settings = settings
        self.resolve_of = resolve_of or Resolver().of
        self.room = Turnstile(settings.all_requests)
        self._tls: ssl.SSLContext | None = None

    @property
    def tls(self) -> ssl.SSLContext:
        """Made at first use: reading the certificates takes a while."""
        if self._tls is None:
            self._tls = httpx.create_ssl_context(trust_env=False)
            if self.settings.ca_file:
                self._tls.load_verify_locations(self.settings.ca_file)
        return self._tls


class HttpClient:
    """No cookies, no proxies, no credentials but what the program itself puts into a request."""

    def __init__(self, rights: HttpRights, shared: HttpShared, tenant: str, limits: ProcessLimits) -> None:
        self.rights = rights
        self._limits = limits
        self._tenant = tenant
        self._shared = shared
        self._client: httpx.AsyncClient | None = None

    def order(
        self,
        method: str,
        url: str,
        headers: Sequence[tuple[str, str]],
        body: bytes | AsyncIterable[bytes],
        seconds: float | None,
        redirects: int,
        length: int | None = None,
    ) -> Order:
        """Check a request, and `length` of a body that is streamed.

        Raises:
            BadRequest: it is none. Forbidden: its host. LimitExceeded: its body.
        """
        check_request_body(len(body) if isinstance(body, bytes) else length or 0, self._limits)
        fields = _with_defaults(headers)
        if length is not None:
            fields.append(("content-length", str(length)))
        try:
            request = httpx.Request(method, url, headers=fields, content=body or None)
        except (httpx.InvalidURL, ValueError, TypeError) as exc:
            raise BadRequest(f"{url[:200]!r} cannot be asked for: {exc}") from exc
        self.rights.require(*_target(request.url))
        limit = self._limits.http_seconds
        seconds = limit if seconds is None else min(seconds, limit)
        return Order(request, seconds, redirects, isinstance(body, bytes))

    async def fetch(self, order: Order, to: Receiver, credit: asyncio.Semaphore) -> None:
        """Carry out an order. Each piece takes one of `credit`, which the reader gives back."""
        where, room, tenant = order.request.url.host, self._shared.room, self._tenant
        has_place = False
        try:
            async with asyncio.timeout(order.seconds), room.place(tenant):
                has_place = True
                response = await self._response(order)
                try:
                    to.head(Head(response.status_code, str(response.url), _headers(response)))
                    await self._body(response, to, credit)
                finally:
                    await response.aclose()
        except TimeoutError:
            if has_place:
                why = f"{where} did not finish within {order.seconds:g} s"
            else:
                why = f"{where} was not asked within {order.seconds:g} s: {room.held(tenant)} other requests of tenant "
                most = self._shared.settings.all_requests
                why += f"{tenant} took its share of the {most} of the runner (`http_all_requests`)"
            to.end(DeadlineExceeded(why))
        except PieError as exc:
            to.end(exc)
        except (httpcore.LocalProtocolError, httpx.InvalidURL) as exc:
            to.end(BadRequest(f"the request to {where} cannot be sent: {exc}"))
        except (httpx.HTTPError, *_TRANSPORT_ERRORS) as exc:
            to.end(Unavailable(f"{where} did not answer properly: {exc or type(exc).__name__}"))
        except Exception as exc:  # a defect: the program must not wait for ever
            log.exception("an HTTP request failed in a way it does not state")
            to.end(to_error(exc))
        else:
            to.end(None)

    async def close(self) -> None:
        """Close its connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def _response(self, order: Order) -> httpx.Response:
        """The first response that is no redirect, or the last one that may be followed."""
        client = self._client
        if client is None:
            client = self._client = httpx.AsyncClient(
                transport=CheckedTransport(
                    self.rights,
                    self._shared.resolve_of(self._tenant),
                    self._shared.tls,
                    self._limits.http_requests,
                ),
                cookies=http.cookiejar.CookieJar(http.cookiejar.DefaultCookiePolicy(allowed_domains=[])),
                trust_env=False,
                timeout=None,
            )
        request, left = order.request, order.redirects
        while True:
            response = await client.send(request, stream=True)
            following = response.next_request
            if following is None or left == 0:
                return response
            if not order.is_replayable and following.stream is request.stream:
                return response
            await response.aclose()
            self.rights.require(*_target(following.url))
            request, left = following, left - 1

    async def _body(self, response: httpx.Response, to: Receiver, credit: asyncio.Semaphore) -> None:
        size = 0
        async for data in response.aiter_raw():
            size += len(data)
            if size > self._limits.http_bytes:
                raise _too_large("response", self._limits)
            for at in range(0, len(data), PIECE):
                await credit.acquire()
                to.piece(data[at : at + PIECE])


def check_request_body(size: int, limits: ProcessLimits) -> None:
    """Raise LimitExceeded if a request's body may not be so large."""
    if size > limits.http_bytes:
        raise _too_large("request", limits)


def _with_defaults(headers: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    given = {name.lower() for name, _ in headers}
    return [*((name, value) for name, value in _DEFAULTS.items() if name not in given), *headers]


def _target(url: httpx.URL) -> tuple[str, int]:
    """Host and port. Raises BadRequest for what is no web address."""
    if url.scheme not in ("http", "https") or not url.host:
        raise BadRequest(f"{str(url)[:200]!r} is no http or https address")
    if url.userinfo:
        raise BadRequest("an address must not carry a name and password: send an `authorization` header")
    port = url.port or (443 if url.scheme == "https" else 80)
    if port > 65535:
        raise BadRequest(f"{port} is no port")
    host = url.raw_host.decode("ascii").lower().rstrip(".")
    return host, port


def _headers(response: httpx.Response) -> list[tuple[str, str]]:
    return [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in response.headers.raw]


def _too_large(what: str, limits: ProcessLimits) -> LimitExceeded:
    return limits.exceeded("http_bytes", f"the {what}'s body is larger")


_TRANSPORT_ERRORS = (
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.ProxyError,
    httpcore.TimeoutException,
    httpcore.UnsupportedProtocol,
    OSError,
)
