"""A real HTTP server on this machine, whose answers and log belong to the test."""

from __future__ import annotations

import contextlib
import http.server
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

BIG = 32 << 20
"""More than the buffers of two sockets."""


@dataclass
class Seen:
    """A request that came in."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Web:
    """Where it listens, and what it has seen."""

    port: int
    seen: list[Seen] = field(default_factory=list[Seen])
    sent: int = 0
    """Bytes of `/big` that have been written."""
    received: int = 0
    """Bytes of a body in chunks that have been read."""
    gone: threading.Event = field(default_factory=threading.Event)
    """A client has closed its connection before all was sent."""
    done: threading.Event = field(default_factory=threading.Event)
    """The test is over: slow answers need not go on."""

    def url(self, path: str = "/", host: str = "127.0.0.1", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}{path}"


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    web: Web

    def log_message(self, *args: Any) -> None:
        pass

    def handle_any(self) -> None:
        if self.path == "/early":
            self._answer(b"enough", status=413)
            self._body()
            return
        if self.path == "/hang-up":
            self.close_connection = True
            return
        if self.path == "/unread":
            self.web.done.wait(20)
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.web.seen.append(Seen(self.command, self.path, headers, self._body()))
        route, _, argument = self.path.partition("?")
        match route:
            case "/echo":
                self._answer(self.web.seen[-1].body, ("x-twice", "a"), ("X-Twice", "b"), ("set-cookie", "k=v; Path=/"))
            case "/to":
                self._answer(b"", ("location", argument), status=302)
            case "/redirect":
                self._answer(b"", ("location", "/echo"), status=int(argument))
            case "/loop":
                self._answer(b"", ("location", "/loop"), status=302)
            case "/big":
                self._big()
            case "/slow":
                self.web.done.wait(20)
                self._answer(b"late")
            case "/cut":
                self.send_response(200)
                self.send_header("content-length", "1000")
                self.end_headers()
                self.wfile.write(b"half")
                self.close_connection = True
            case "/junk":
                self.wfile.write(b"this is no HTTP\r\n\r\n")
                self.close_connection = True
            case _:
                self._answer(b"nothing here", status=404)

    do_GET = do_POST = do_PUT = do_DELETE = handle_any  # noqa: N815 - the names that http.server calls

    def _answer(self, body: bytes, *headers: tuple[str, str], status: int = 200) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("content-length", 0)))
        body = b""
        while size := int(self._line(), 16):
            body += self.rfile.read(size)
            self.web.received = len(body)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _line(self) -> bytes:
        line = self.rfile.readline()
        if not line:
            raise ConnectionError("the client hung up in the middle of a body")
        return line

    def _big(self) -> None:
        self.send_response(200)
        self.send_header("content-length", str(BIG))
        self.end_headers()
        try:
            for _ in range(BIG // 65536):
                self.wfile.write(bytes(65536))
                self.web.sent += 65536
        except OSError:
            self.web.gone.set()
            self.close_connection = True


@contextlib.contextmanager
def serving(tls: ssl.SSLContext | None = None) -> Iterator[Web]:
    """A server on a free port of 127.0.0.1."""

    class Handler(_Handler):
        pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda request, client_address: None  # type: ignore[method-assign]
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    web = Handler.web = Web(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield web
    finally:
        web.done.set()
        server.shutdown()
        server.server_close()
        thread.join()


def wait_for(condition: Any, seconds: float = 5.0) -> bool:
    """Whether a condition comes true in real time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True
