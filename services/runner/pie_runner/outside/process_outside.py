"""What one process has of the outside: made when it is first asked for, closed with the process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from pie_wire.errors import PieError
from pie_wire.hub import Hub, Scope
from pie_wire.messages.runner import Start

from pie_runner.outside.aside import Aside
from pie_runner.outside.fetches import Fetch, PendingResponse
from pie_runner.outside.file_rooms import FileRooms
from pie_runner.outside.files import ProcessFiles
from pie_runner.outside.http_client import HttpClient, HttpShared, Order, check_request_body
from pie_runner.outside.http_rights import HttpRights
from pie_runner.outside.mcp_servers import McpServers
from pie_runner.outside.relay import ClientRelay
from pie_runner.outside.tools import ProcessTools
from pie_runner.outside.uploads import Body, Upload
from pie_runner.process_limits import ProcessLimits
from pie_runner.waitables import Waitables


def _no_servers() -> McpServers:
    return McpServers({})


@dataclass(frozen=True)
class OutsideFacilities:
    """Shared by all processes of a runner."""

    aside: Aside
    http: HttpShared
    files: FileRooms | None = None
    mcp: McpServers = field(default_factory=_no_servers)


class ProcessOutside:
    """See the module's text."""

    def __init__(
        self,
        start: Start,
        scope: Scope,
        shared: OutsideFacilities,
        waitables: Waitables,
        hub: Hub,
        limits: ProcessLimits,
    ) -> None:
        capabilities = self._capabilities = start.capabilities
        self._shared = shared
        self._tenant = scope.tenant
        self._waitables = waitables
        self._limits = limits
        relay = ClientRelay(hub, start.pid, scope, limits.mcp_seconds)
        self.files = ProcessFiles(capabilities, shared.files, start.pid, scope, start.program, limits)
        self.tools = ProcessTools(
            capabilities, shared.mcp, shared.aside, waitables, start.mcp, relay.ask, scope.tenant, limits
        )
        self._requests = 0
        self._total = 0

    @cached_property
    def _http(self) -> HttpClient:
        return HttpClient(HttpRights(self._capabilities), self._shared.http, self._tenant, self._limits)

    def check_request_body(self, size: int) -> None:
        """Raise LimitExceeded if a request's body may not be so large."""
        check_request_body(size, self._limits)

    def send(
        self,
        method: str,
        url: str,
        headers: Sequence[tuple[str, str]],
        body: bytes,
        seconds: float | None,
        redirects: int,
    ) -> PendingResponse:
        """Begin an HTTP request. Raises BadRequest, Forbidden, LimitExceeded, TooLarge."""
        order = self._http.order(method, url, headers, body, seconds, redirects)
        return PendingResponse(self._waitables, self._fetch(order))

    def upload(
        self,
        method: str,
        url: str,
        headers: Sequence[tuple[str, str]],
        beginning: bytes,
        seconds: float | None,
        redirects: int,
        length: int | None,
    ) -> Upload:
        """Begin one whose body is written afterwards. Raises the same; BadRequest also for a beginning too long."""
        body = Body()
        order = self._http.order(method, url, headers, body, seconds, redirects, length)
        upload = Upload(self._waitables, self._fetch(order), body, length, self.check_request_body)
        if beginning:
            try:
                upload.write(beginning).close()
            except PieError:
                upload.close()
                raise
        return upload

    def _fetch(self, order: Order) -> Fetch:
        """Carry out an order, if it is one of those that there may be. Raises LimitExceeded."""
        limits = self._limits
        if self._requests >= limits.http_requests:
            raise limits.exceeded("http_requests", "requests at once: drop responses that are not needed")
        if limits.http_total and self._total >= limits.http_total:
            raise limits.exceeded("http_total", "requests in all")
        fetch = Fetch(self._http, order, self._shared.aside, self._request_ended)
        self._requests += 1
        self._total += 1
        return fetch

    def close(self) -> None:
        """The process has ended; what its program held has been closed."""
        if "_http" in self.__dict__:
            self._shared.aside.start(self._http.close())
        self.files.close()

    @property
    def requests_under_way(self) -> int:
        return self._requests

    def _request_ended(self) -> None:
        self._requests -= 1
