"""Links over real sockets, with the other end in a process of its own."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
import pytest
import zmq
from pie_wire import transport
from pie_wire.codec import Buffer, Header, encode, encode_body
from pie_wire.errors import BadRequest, PeerLost, PieError, Unavailable
from pie_wire.hub import Answer, Hub, Incoming, Peer
from pie_wire.messages.base import Done
from pie_wire.messages.client import Replaced
from pie_wire.messages.gateway import Detach, Terminate
from pie_wire.messages.link import Hello, Identity
from pie_wire.process import identity
from pie_wire.transport import TICK, AsyncTransport, Transport
from tcp_relay import Relay

SERVICE = Path(__file__).parent / "echo_service.py"
_encoder = msgspec.msgpack.Encoder()


@contextmanager
def echo(endpoint: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The service process, and where it listens."""
    with subprocess.Popen([sys.executable, str(SERVICE), endpoint], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()
            process.send_signal(signal.SIGCONT)


class Dialer:
    """This process's end."""

    def __init__(self, endpoint: str) -> None:
        self.hub = Hub(identity("client", "test"), time.monotonic)
        self.ups: list[Peer] = []
        self.downs: list[PieError] = []
        self.pushed: list[str] = []
        self.hub.on_up(self.ups.append)
        self.hub.on_down(lambda peer, cause: self.downs.append(cause))
        self.hub.on(Replaced, lambda incoming: self.pushed.append(incoming.message.pid))
        self.transport = Transport(self.hub)
        self.transport.dial("x", endpoint)

    def until(self, condition: Callable[[], object], within: float = 10.0) -> float:
        """Poll; returns how long it took."""
        begin = time.monotonic()
        while not condition():
            assert time.monotonic() - begin < within, "it did not happen in time"
            self.transport.poll(0.05)
        return time.monotonic() - begin

    def ask(self, pid: str = "p", timeout: float = 10.0) -> list[Answer[Done]]:
        answers: list[Answer[Done]] = []
        self.hub.request("x", Detach(pid), answers.append, timeout=timeout)
        return answers


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture(params=["ipc", "tcp"])
def endpoint(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"ipc://{tmp_path}/x" if request.param == "ipc" else "tcp://127.0.0.1:*"


@pytest.fixture
def ipc(tmp_path: Path) -> str:
    return f"ipc://{tmp_path}/x"


def dialer(stack: ExitStack, endpoint: str) -> Dialer:
    made = Dialer(endpoint)
    stack.callback(made.transport.close)
    return made


def test_ask_and_be_pushed_to(stack: ExitStack, endpoint: str):
    _, where = stack.enter_context(echo(endpoint))
    side = dialer(stack, where)

    answers = side.ask("hello")
    missing = side.ask("missing")
    side.until(lambda: answers and missing)

    assert answers[0].value() == Done()
    assert missing[0].error is not None
    assert missing[0].error.code == "not_found"
    assert side.pushed == ["hello"]


def test_thousands_of_pipelined_requests(stack: ExitStack, endpoint: str):
    _, where = stack.enter_context(echo(endpoint))
    side = dialer(stack, where)
    answers: list[Answer[Done]] = []

    for number in range(5000):
        side.hub.request("x", Detach(str(number)), answers.append, timeout=60.0)
    side.until(lambda: len(answers) == 5000, within=60.0)

    assert all(answer.error is None for answer in answers)
    assert side.pushed == [str(number) for number in range(5000)]


def test_a_killed_process_is_known_within_a_second(stack: ExitStack, endpoint: str):
    process, where = stack.enter_context(echo(endpoint))
    side = dialer(stack, where)
    side.until(lambda: side.ups)
    answers: list[Answer[Done]] = []
    side.hub.request("x", Terminate("p"), answers.append, timeout=30.0)
    side.until(lambda: side.hub.idle)

    process.kill()
    took = side.until(lambda: side.downs and answers)

    assert took < 1.0
    assert isinstance(answers[0].error, PeerLost)
    assert "has died" in side.downs[0].message


def test_a_stopped_process_is_stuck_and_recovers(stack: ExitStack, ipc: str):
    process, where = stack.enter_context(echo(ipc))
    side = dialer(stack, where)
    side.until(lambda: side.ups)
    (peer,) = side.ups

    process.send_signal(signal.SIGSTOP)
    answers = side.ask(timeout=30.0)
    side.until(lambda: side.hub.is_stuck(peer))
    begin = time.monotonic()
    side.until(lambda: time.monotonic() - begin > 1.0)
    process.send_signal(signal.SIGCONT)
    took = side.until(lambda: answers)

    assert took < 1.0
    assert answers[0].error is None
    assert not side.hub.is_stuck(peer)
    assert side.downs == []


def test_requests_wait_for_a_restart(stack: ExitStack, ipc: str):
    first, where = stack.enter_context(echo(ipc))
    side = dialer(stack, where)
    side.until(lambda: side.ups)
    first.kill()
    side.until(lambda: side.downs)

    waiting = side.ask()
    stack.enter_context(echo(ipc))
    side.until(lambda: waiting)

    assert waiting[0].error is None
    assert len(side.ups) == 2
    assert side.ups[0].identity.incarnation != side.ups[1].identity.incarnation


def test_a_graceful_end_is_said(stack: ExitStack, endpoint: str):
    process, where = stack.enter_context(echo(endpoint))
    side = dialer(stack, where)
    side.until(lambda: side.ups)

    process.send_signal(signal.SIGTERM)
    side.until(lambda: side.downs)

    assert "shutting down" in side.downs[0].message
    assert process.wait(5) == 0


def test_nobody_there(stack: ExitStack, ipc: str):
    side = dialer(stack, ipc)

    answers = side.ask(timeout=0.3)
    side.until(lambda: answers)

    assert isinstance(answers[0].error, Unavailable)
    assert "is it running" in str(answers[0].error)


class Raw:
    """A DEALER that knows nothing of links."""

    def __init__(self, stack: ExitStack, endpoint: str) -> None:
        context = stack.enter_context(zmq.Context[zmq.Socket[bytes]]())
        self.socket = stack.enter_context(context.socket(zmq.DEALER))
        self.socket.linger = 0
        self.socket.connect(endpoint)

    def send(self, *frames: Buffer) -> None:
        self.socket.send_multipart([b"", *frames])

    def reply(self, verb: bytes = b"link.refused") -> dict[str, object]:
        """The body of the next frame with this verb."""
        while self.socket.poll(5000):
            parts = self.socket.recv_multipart()
            if parts[2] == verb:
                return msgspec.msgpack.decode(parts[4])
        raise AssertionError(f"no {verb!r} came")

    def code(self, verb: bytes = b"link.refused") -> object:
        body = self.reply(verb)
        error = body["error"] if verb == b"link.refused" else body
        assert isinstance(error, dict)
        return error["code"]

    def open(self) -> int:
        hello = Hello(1, 0, Identity("client", "raw", incarnation="r"), attempt=1)
        self.send(*encode(b"link.hello", Header(), encode_body(hello)))
        session = self.reply(b"link.ready")["session"]
        assert isinstance(session, int)
        return session


def test_strangers_get_typed_answers_and_the_service_lives_on(stack: ExitStack, endpoint: str):
    _, where = stack.enter_context(echo(endpoint))
    side = dialer(stack, where)
    side.until(lambda: side.ups)
    raw = Raw(stack, where)

    for garbage in ([os.urandom(200)], [b"GET / HTTP/1.1\r\n"] * 5, [b""], []):
        raw.send(*garbage)
        assert raw.code() == "bad_frame"
    raw.send(b"PIE9", b"link.hello", b"\x80", b"\x80")
    assert raw.code() == "version_mismatch"
    future = _encoder.encode({"major": 2, "minor": 0, "attempt": 7})
    raw.send(b"PIE1", b"link.hello", b"\x80", future)
    refused = raw.reply()
    assert (refused["attempt"], msgspec.convert(refused["error"], dict)["code"]) == (7, "version_mismatch")
    raw.send(b"PIE1", b"link.hello", b"\x80", _encoder.encode({"major": 1, "minor": 0, "identity": 5}))
    assert raw.code() == "bad_field"

    header = Header(session=raw.open(), seq=1, id=1, ttl=1000)
    raw.send(*encode(b"gw.fly", header, b"\x80"))
    assert raw.code(b"error") == "unknown_verb"
    header = msgspec.structs.replace(header, seq=2, id=2)
    raw.send(*encode(b"gw.detach", header, _encoder.encode({"pid": 5})))
    assert raw.code(b"error") == "bad_field"
    header = msgspec.structs.replace(header, seq=3, id=0)
    raw.send(*encode(b"gw.detach", header, encode_body(Detach("p"))))
    assert raw.code() == "bad_frame"

    answers = side.ask()
    side.until(lambda: answers)
    assert answers[0].error is None
    assert side.downs == []


def test_a_path_that_is_too_long_for_a_socket(stack: ExitStack):
    transport = Transport(Hub(identity("client", "test"), time.monotonic))
    stack.callback(transport.close)

    with pytest.raises(BadRequest, match="PIE_HOME"):
        transport.bind("x", "ipc:///tmp/" + "a" * 120)
    with pytest.raises(BadRequest, match="cannot listen"):
        transport.bind("x", "nonsense")
    with pytest.raises(BadRequest, match="cannot dial"):
        transport.dial("x", "nonsense")


def test_an_address_in_use(stack: ExitStack):
    one = Transport(Hub(identity("gateway", "one"), time.monotonic))
    two = Transport(Hub(identity("gateway", "two"), time.monotonic))
    stack.callback(one.close)
    stack.callback(two.close)
    where = one.bind("x", "tcp://127.0.0.1:*")

    with pytest.raises(Unavailable, match="in use"):
        two.bind("x", where)


def test_ipc_sockets_are_private(stack: ExitStack, tmp_path: Path):
    transport = Transport(Hub(identity("gateway", "one"), time.monotonic))
    stack.callback(transport.close)
    transport.bind("x", f"ipc://{tmp_path}/x")

    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o600


def test_wake_from_another_thread(stack: ExitStack):
    transport = Transport(Hub(identity("client", "test"), time.monotonic))
    stack.callback(transport.close)
    transport.poll(0)
    called: list[int] = []
    read, write = os.pipe()
    stack.callback(os.close, read)
    stack.callback(os.close, write)
    transport.add_fd(read, lambda: called.append(len(os.read(read, 10))))
    os.write(write, b"abc")
    threading.Timer(0.01, transport.wake).start()

    begin = time.monotonic()
    while not called and time.monotonic() - begin < 5:
        transport.poll(5.0)
    transport.remove_fd(read)

    assert called == [3]


def test_hanging_up_tells_the_other_side(stack: ExitStack, ipc: str):
    _, where = stack.enter_context(echo(ipc))
    side = dialer(stack, where)
    side.until(lambda: side.ups)

    side.transport.hang_up("x")
    assert len(side.downs) == 1
    side.transport.dial("x", where)
    answers = side.ask()
    side.until(lambda: answers)

    assert answers[0].error is None
    assert len(side.ups) == 2


def test_asyncio_calls(stack: ExitStack, endpoint: str):
    _, where = stack.enter_context(echo(endpoint))

    async def talk() -> None:
        hub = Hub(identity("client", "test"), time.monotonic)
        hub.on(Replaced, lambda incoming: None)
        transport = AsyncTransport(hub)
        try:
            transport.dial("x", where)
            transport.start()
            answers = await asyncio.gather(
                *(transport.call("x", Detach(str(number)), timeout=30.0) for number in range(500))
            )
            assert all(answer.error is None for answer in answers)
            with pytest.raises(PieError, match="no such process"):
                (await transport.call("x", Detach("missing"), timeout=5.0)).value()
            forgotten = asyncio.create_task(transport.call("x", Terminate("p"), timeout=30.0))
            await asyncio.sleep(0.05)
            forgotten.cancel()
            with pytest.raises(asyncio.CancelledError):
                await forgotten
            late = await transport.call("x", Terminate("p"), timeout=0.2)
            assert late.error is not None
            assert late.error.code == "deadline_exceeded"
        finally:
            transport.close()

    asyncio.run(talk())


def test_ticks_come_by_themselves(stack: ExitStack):
    ticks: list[float] = []

    async def scenario() -> None:
        transport = AsyncTransport(Hub(identity("client", "test"), time.monotonic))
        stack.callback(transport.close)
        transport.on_tick(lambda: ticks.append(time.monotonic()))
        transport.start()
        await asyncio.sleep(TICK * 5.5)

    asyncio.run(scenario())

    assert 2 <= len(ticks) <= 6
    assert all(b - a > TICK * 0.5 for a, b in itertools.pairwise(ticks))


def test_asyncio_reads_what_comes_while_it_sends(monkeypatch: pytest.MonkeyPatch, stack: ExitStack, ipc: str):
    """Sending can take away the signal that something has come; no tick is there to look once more."""
    rounds, each = 150, 4
    heard: dict[str, int] = {"gateway": 0, "client": 0}

    async def scenario() -> None:
        hubs = {kind: Hub(identity(kind, kind), time.monotonic) for kind in heard}
        ends = {kind: AsyncTransport(hub) for kind, hub in hubs.items()}
        up, news = ({kind: asyncio.Event() for kind in heard} for _ in range(2))
        for kind, end in ends.items():
            stack.callback(end.close)

            def hear(incoming: Incoming[Replaced], kind: str = kind) -> None:
                heard[kind] += 1
                news[kind].set()

            hubs[kind].on(Replaced, hear)
            hubs[kind].on_up(lambda peer, kind=kind: up[kind].set())
        ends["gateway"].bind("clients", ipc)
        ends["client"].dial("gateway", ipc)
        for end in ends.values():
            end.start()

        async def speak(kind: str, other: str) -> None:
            for number in range(rounds):
                for _ in range(each):
                    hubs[kind].send(hubs[kind].peers()[0], Replaced("p"))
                ends[kind].soon() if number % 2 else ends[kind].flush()
                while heard[other] < (number + 1) * each:
                    news[other].clear()
                    await news[other].wait()

        async with asyncio.timeout(20):
            await asyncio.gather(*(event.wait() for event in up.values()))
            monkeypatch.setattr(transport, "TICK", 3600.0)
            await asyncio.sleep(2 * TICK)
            await asyncio.gather(speak("gateway", "client"), speak("client", "gateway"))

    asyncio.run(scenario())

    assert heard == {"gateway": rounds * each, "client": rounds * each}


def test_asyncio_sees_a_death(stack: ExitStack, ipc: str):
    process, where = stack.enter_context(echo(ipc))

    async def talk() -> float:
        hub = Hub(identity("client", "test"), time.monotonic)
        hub.on(Replaced, lambda incoming: None)
        transport = AsyncTransport(hub)
        try:
            transport.dial("x", where)
            transport.start()
            await transport.call("x", Detach("p"), timeout=10.0)
            waiting = asyncio.create_task(transport.call("x", Terminate("p"), timeout=30.0))
            await asyncio.sleep(0.1)
            process.kill()
            begin = time.monotonic()
            answer = await waiting
            assert isinstance(answer.error, PeerLost)
            return time.monotonic() - begin
        finally:
            transport.close()

    assert asyncio.run(talk()) < 1.0


def test_large_buffers_cross(stack: ExitStack, ipc: str):
    _, where = stack.enter_context(echo(ipc))
    side = dialer(stack, where)
    answers: list[Answer[Done]] = []

    for _ in range(8):
        side.hub.request("x", Detach("big"), answers.append, timeout=30.0, buffers=[bytes(8 << 20)])
    side.until(lambda: len(answers) == 8, within=30.0)

    assert all(answer.error is None for answer in answers)


def test_a_connection_that_is_silently_dead_is_made_anew(monkeypatch: pytest.MonkeyPatch, stack: ExitStack):
    monkeypatch.setattr(transport, "HEARTBEAT", 0.2)
    monkeypatch.setattr(transport, "HEARTBEAT_TIMEOUT", 0.8)
    _, target = stack.enter_context(echo("tcp://127.0.0.1:*"))
    relay = stack.enter_context(Relay(target))
    dialer = Dialer(relay.endpoint)
    stack.callback(dialer.transport.close)
    dialer.until(lambda: dialer.ups)
    relay.cut()
    answers = dialer.ask()

    assert dialer.until(lambda: answers) < 5.0
    assert answers[0].error is None
    assert relay.accepted >= 2
    assert dialer.downs == [], "the session was resumed"
