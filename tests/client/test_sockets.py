"""The client against a real gateway over real sockets, with stand-ins for runner and kvstore."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import msgspec
import pytest
import zmq
from gateway_world import FakeKvstore, FakeRunner
from pie_gateway.config import GatewayConfig
from pie_gateway.service import serve
from pie_wire.errors import BadFrame, NotFound, PeerLost, Unavailable, VersionMismatch
from pie_wire.hub import Hub
from pie_wire.membership import KVSTORE
from pie_wire.messages.runner import Start
from pie_wire.process import identity
from pie_wire.transport import AsyncTransport
from pie_zmq import AsyncClient, Client


class Stack:
    """A gateway that can be stopped and started, one runner and one kvstore."""

    def __init__(self, folder: Path) -> None:
        self.config = GatewayConfig(
            endpoint=f"ipc://{folder}/c",
            runners_endpoint=f"ipc://{folder}/r",
            kvstore_endpoint=f"ipc://{folder}/k",
            data=str(folder),
            http_port=0,
        )
        self.kvstore = FakeKvstore()
        self.runner = FakeRunner("runner-0")
        self._stop = asyncio.Event()
        self._gateway: asyncio.Task[None] | None = None
        self._transports: list[AsyncTransport] = []

    def start(self) -> None:
        hub = Hub(identity("kvstore", "kvstore"), time.monotonic)
        self.kvstore.start(hub)
        self._carry(hub).bind(KVSTORE, self.config.kvstore_endpoint)
        hub = Hub(identity("runner", "runner-0"), time.monotonic)
        self._carry(hub).dial("gateway", self.config.runners_endpoint)
        self.runner.start(hub)
        for transport in self._transports:
            transport.start()
        self.start_gateway()

    def start_gateway(self) -> None:
        self._stop = asyncio.Event()
        self._gateway = asyncio.create_task(serve(self.config, self._stop))

    async def stop_gateway(self) -> None:
        self._stop.set()
        if self._gateway is not None:
            await self._gateway

    def emit(self, pid: str, kind: str, text: str = "") -> None:
        self.runner.emit(pid, kind, text)
        for transport in self._transports:
            transport.soon()

    async def close(self) -> None:
        await self.stop_gateway()
        for transport in self._transports:
            transport.close()

    def _carry(self, hub: Hub) -> AsyncTransport:
        self._transports.append(AsyncTransport(hub))
        return self._transports[-1]


@contextlib.asynccontextmanager
async def running() -> AsyncIterator[Stack]:
    with tempfile.TemporaryDirectory(prefix="pie-") as folder:
        stack = Stack(Path(folder))
        stack.start()
        try:
            yield stack
        finally:
            await stack.close()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - what is waited for has no event of its own
            await asyncio.sleep(0.01)


def exchange(endpoint: str, frames: list[bytes]) -> list[bytes]:
    """Send frames from a bare socket; the first answer."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as raw:
        raw.setsockopt(zmq.LINGER, 0)
        raw.connect(endpoint)
        raw.send_multipart(frames)
        assert raw.poll(5000), "no answer"
        return raw.recv_multipart()


def test_a_launch_streams_to_its_result():
    async def scenario() -> None:
        async with running() as stack, await AsyncClient.connect(stack.config.endpoint) as client:

            def on_start(pid: str, start: Start) -> None:
                stack.runner.emit(pid, "message", start.input)
                stack.runner.emit(pid, "return", '{"ok": true}')

            stack.runner.on_start = on_start
            process = await client.launch("hello", {"n": 1})
            assert [e.kind async for e in process.events()] == ["started", "message", "return"]
            assert await process.result(1) == {"ok": True}

    asyncio.run(scenario())


def test_a_restarted_gateway_goes_unnoticed_by_the_reader():
    async def scenario() -> None:
        async with running() as stack, await AsyncClient.connect(stack.config.endpoint) as client:
            process = await client.launch("hello")
            texts: list[str] = []

            async def read() -> None:
                texts.extend([e.text async for e in process.events() if e.kind == "message"])

            reader = asyncio.create_task(read())
            for number in range(30):
                if number == 10:
                    await stack.stop_gateway()
                if number == 20:
                    stack.start_gateway()
                stack.emit(process.pid, "message", str(number))
                await asyncio.sleep(0.01)
            stack.emit(process.pid, "return", "null")
            await asyncio.wait_for(reader, 10)
            assert texts == [str(n) for n in range(30)]

    asyncio.run(scenario())


def test_a_launch_made_while_the_gateway_is_away_arrives_when_it_is_back():
    async def scenario() -> None:
        async with running() as stack, await AsyncClient.connect(stack.config.endpoint) as client:
            await stack.stop_gateway()
            launching = asyncio.create_task(client.launch("hello"))
            await asyncio.sleep(0.3)
            stack.start_gateway()
            process = await asyncio.wait_for(launching, 10)
            stack.emit(process.pid, "return", "5")
            assert await process.result(5) == 5

    asyncio.run(scenario())


def test_a_gateway_that_stays_away_fails_open_processes():
    async def scenario() -> None:
        async with (
            running() as stack,
            await AsyncClient.connect(stack.config.endpoint, reconnect_timeout=0.3) as client,
        ):
            process = await client.launch("hello")
            await stack.stop_gateway()
            with pytest.raises(Unavailable, match="away for"):
                await process.result(10)

    asyncio.run(scenario())


def test_requests_under_way_fail_retryable_when_the_gateway_goes():
    async def scenario() -> None:
        async with running() as stack, await AsyncClient.connect(stack.config.endpoint) as client:
            process = await client.launch("hello")
            stack.runner.obeys = False
            ending = asyncio.create_task(process.terminate())
            await until(lambda: process.pid in stack.runner.killed)
            await stack.stop_gateway()
            with pytest.raises(PeerLost) as caught:
                await asyncio.wait_for(ending, 3)
            assert caught.value.retryable

    asyncio.run(scenario())


def test_the_synchronous_client_does_the_same():
    async def scenario() -> None:
        async with running() as stack:

            def on_start(pid: str, start: Start) -> None:
                for number in range(600):
                    stack.runner.emit(pid, "message", str(number))
                stack.runner.emit(pid, "return", "7")

            stack.runner.on_start = on_start

            def use() -> None:
                with Client(stack.config.endpoint) as client:
                    process = client.launch("hello")
                    stream = process.events()
                    assert next(stream).kind == "started"
                    stream.close()
                    kinds = [e.kind for e in process.events()]
                    assert kinds == ["message"] * 600 + ["return"]
                    assert process.result(1) == 7
                    assert [p.pid for p in client.list(ended=True)] == [process.pid]
                    with pytest.raises(NotFound):
                        client.launch("nothing-like-it")

            await asyncio.to_thread(use)

    asyncio.run(scenario())


def test_an_upload_is_resumed_over_a_restart_of_the_gateway(tmp_path: Path):
    data = bytes(range(256)) * 4096

    async def scenario() -> None:
        async with running() as stack, await AsyncClient.connect(stack.config.endpoint) as client:
            seen: list[int] = []

            def progress(done: int, size: int) -> None:
                seen.append(done)
                if len(seen) == 1:
                    stack._stop.set()

            uploading = asyncio.create_task(client.upload(data, progress=progress))
            await until(lambda: bool(seen))
            await stack.stop_gateway()
            stack.start_gateway()
            digest = await asyncio.wait_for(uploading, 10)
            assert digest == hashlib.sha256(data).hexdigest()
            assert stack.kvstore.artifacts[digest] == data
            assert seen == sorted(set(seen))

    asyncio.run(scenario())


def test_garbage_and_other_versions_are_refused_and_the_gateway_lives_on():
    async def scenario() -> None:
        async with running() as stack, await AsyncClient.connect(stack.config.endpoint) as client:
            for endpoint in (stack.config.endpoint, stack.config.runners_endpoint):
                hello = msgspec.msgpack.encode({"major": 99, "minor": 0, "identity": {"kind": "client", "name": "x"}})
                for frames, code in (
                    ([b"", b"GARBAGE"], BadFrame.code),
                    ([b"", b"PIE1", b"\xff" * 100, b"\xc1", b"\x00"], BadFrame.code),
                    ([b"", b"PIE9", b"link.hello", b"\x80", b"\x80"], VersionMismatch.code),
                    ([b"", b"PIE1", b"link.hello", b"\x80", hello], VersionMismatch.code),
                ):
                    _, _, verb, _, body = await asyncio.to_thread(exchange, endpoint, frames)
                    assert verb == b"link.refused"
                    assert msgspec.msgpack.decode(body)["error"]["code"] == code
            stack.runner.on_start = lambda pid, start: stack.runner.emit(pid, "return", "1") and None
            assert await (await client.launch("hello")).result(5) == 1

    asyncio.run(scenario())


def test_nobody_there_is_said_in_time():
    with pytest.raises(Unavailable, match="pie up"):
        Client("ipc:///tmp/pie-nobody-listens-here", connect_timeout=0.3)


def test_the_http_front_is_reachable_and_speaks_the_same_health():
    async def scenario() -> None:
        async with running() as stack, await AsyncClient.connect(stack.config.endpoint) as client:
            status = await client.status()
            async with httpx.AsyncClient(base_url=status.http) as http:
                await until(lambda: stack.runner.peer is not None)
                for _ in range(100):
                    if (health := await http.get("/healthz")).status_code == 200:
                        break
                    await asyncio.sleep(0.05)
                assert health.json()["ready"], health.text

    asyncio.run(scenario())
