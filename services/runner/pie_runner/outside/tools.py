"""Tool servers as one process has them: which it may use, and its calls under way."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from pie_wire.capabilities import Capabilities, Grants
from pie_wire.errors import Closed, ErrorInfo, Forbidden, NotFound, PieError, to_error
from pie_wire.mcp_calls import check_params

from pie_runner.outside.aside import Aside
from pie_runner.outside.mcp_servers import McpServers
from pie_runner.process_limits import ProcessLimits
from pie_runner.waitables import Waitable, Waitables

Told = Callable[[str, PieError | None], None]


class ToolAnswer(Waitable):
    """The WIT's `pending-answer`: JSON text or an error, once."""

    def __init__(self, table: Waitables, on_end: Callable[[], None]) -> None:
        super().__init__(table)
        self.cancel: Callable[[], None] = lambda: None
        self._on_end = on_end
        self._answer: str | ErrorInfo | None = None
        self._over = False
        self._taken = False

    @property
    def ready(self) -> bool:
        return self._taken or self._answer is not None

    def tell(self, text: str, error: PieError | None) -> None:
        """What came of it; the first one counts."""
        if not self._over:
            self._finish()
            self._answer = text if error is None else error.info()
            self.notify()

    def take(self) -> str | ErrorInfo | None:
        """None until there is something."""
        if self._taken:
            return Closed("this answer was already got").info()
        answer = self._answer
        if answer is not None:
            self._taken, self._answer = True, None
        return answer

    def close(self) -> None:
        super().close()
        if not self._over:
            self.cancel()
            self._finish()

    def _finish(self) -> None:
        self._over = True
        self._on_end()


class ProcessTools:
    """`ask_client` carries a call to the client that launched the process; `of_client` are the servers that it runs."""

    def __init__(
        self,
        capabilities: Capabilities,
        servers: McpServers,
        aside: Aside,
        waitables: Waitables,
        of_client: list[str],
        ask_client: Callable[[str, str, str, Told], Callable[[], None]],
        tenant: str,
        limits: ProcessLimits,
    ) -> None:
        self._capabilities = capabilities
        self._servers = servers
        self._aside = aside
        self._waitables = waitables
        self._of_client = of_client
        self._ask_client = ask_client
        self._tenant = tenant
        self._limits = limits
        self._under_way = 0

    def names(self) -> list[str]:
        """Of those that it may use."""
        found: list[str] = []
        for name in sorted({*self._servers.names, *self._of_client}):
            try:
                self._require(name)
            except Forbidden:
                continue
            found.append(name)
        return found

    def connect(self, name: str, then: Told) -> Callable[[], None]:
        """Have a server ready. Returns how to give up. Raises Forbidden, NotFound."""
        self._require(name)
        if name not in self._of_client and name in self._servers.names:
            return self._start(self._connected(name), then)
        if name not in self._of_client:
            raise NotFound(f"there is no tool server {name!r}; there are: {', '.join(self.names()) or 'none'}")
        self._aside.post(lambda: then("", None))
        return lambda: None

    def ask(self, name: str, method: str, params: str) -> ToolAnswer:
        """Begin a call. Raises BadRequest, Unsupported, LimitExceeded, TooLarge, Overloaded."""
        check_params(method, params)
        if self._under_way >= self._limits.mcp_requests:
            raise self._limits.exceeded("mcp_requests", "calls at once: drop answers that are not needed")
        self._under_way += 1
        answer = ToolAnswer(self._waitables, self._ended)
        if name not in self._of_client:
            answer.cancel = self._start(
                self._servers.ask(name, method, params, self._tenant, self._limits), answer.tell
            )
            return answer
        try:
            answer.cancel = self._ask_client(name, method, params, answer.tell)
        except PieError:
            answer.close()
            raise
        return answer

    def _require(self, name: str) -> None:
        """A server of the client's own machine needs nobody's grant, only that the program asks."""
        own = self._capabilities
        rights = Capabilities(own.asked, Grants(mcp=[name]), own.parent) if name in self._of_client else own
        rights.require(
            lambda grants: name in grants.mcp or "*" in grants.mcp,
            f"The tool server {name[:80]!r}",
            f'mcp = ["{name[:80]}"]',
            f"mcp={name[:80]}",
        )

    async def _connected(self, name: str) -> str:
        await self._servers.connect(name)
        return ""

    def _start(self, work: Coroutine[Any, Any, str], then: Told) -> Callable[[], None]:
        async def run() -> None:
            try:
                text, error = await work, None
            except Exception as exc:  # noqa: BLE001 - it is the answer
                text, error = "", to_error(exc)
            self._aside.post(lambda: then(text, error))

        return self._aside.start(run())

    def _ended(self) -> None:
        self._under_way -= 1
