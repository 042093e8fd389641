"""Request bodies that programs write piece by piece: what arrives, what waits, and what ends it."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from http_programs import allowing, ask, finish
from pie_runner.outside.uploads import ROOM
from pie_runner.process_limits import ProcessLimits
from pie_runner.testing import CallError
from pie_wire.messages.runner import Kill
from runner_world import World
from web_server import Web, serving, wait_for

HERE = allowing("127.0.0.1:*")
PIECE = bytes(64 << 10)


@pytest.fixture
def web() -> Iterator[Web]:
    with serving() as found:
        yield found


@pytest.fixture
def world(model_files) -> Iterator[World]:
    made = World(model_files, ProcessLimits(http_requests=2, http_bytes=8 << 20, http_seconds=5.0))
    yield made
    made.aside.close()


async def write(api: Any, upload: Any, piece: bytes) -> None:
    """Write a piece and wait until there is room for another."""
    done = await api.call("http", "[method]upload.write", upload, base64.b64encode(piece).decode())
    answer = await api.wait("futures.done", done)
    api.drop(done)
    return answer


async def finished(api: Any, upload: Any) -> tuple[int, str]:
    """The answer to what was written: status and body."""
    pending = await api.call("http", "[method]upload.finish", upload)
    response = await api.wait("http.pending-response", pending)
    status = await api.call("http", "[method]response.status", response)
    body = b""
    while piece := base64.b64decode(await api.wait("http.response", response, "read")):
        body += piece
    return status, body.decode()


def told(world: World, main: Any, pid: str = "p1") -> Any:
    """What a program found out."""

    async def caught(api: Any, text: str) -> str:
        try:
            return json.dumps(await main(api))
        except CallError as exc:
            return json.dumps([exc.code, str(exc)])

    world.start(caught, pid=pid, capabilities=HERE)
    finish(world, pid)
    last = world.log(pid)[-1]
    assert last.kind == "return", last
    return json.loads(last.text)


def test_a_body_arrives_as_it_was_written(world: World, web: Web):
    async def main(api: Any) -> Any:
        record = ask(web.url("/echo"), method="put", body=b"beginning, ")
        upload = await api.call("http", "begin", record, None)
        for piece in (b"middle, ", b"", b"end"):
            await write(api, upload, piece)
        return await finished(api, upload)

    assert told(world, main) == [200, "beginning, middle, end"]
    [seen] = web.seen
    assert (seen.method, seen.headers["transfer-encoding"]) == ("PUT", "chunked")
    assert "content-length" not in seen.headers


def test_a_body_of_known_length_goes_without_chunks(world: World, web: Web):
    async def main(api: Any) -> Any:
        upload = await api.call("http", "begin", ask(web.url("/echo"), method="POST"), 6)
        await write(api, upload, b"abc")
        await write(api, upload, b"def")
        return await finished(api, upload)

    assert told(world, main) == [200, "abcdef"]
    assert web.seen[0].headers["content-length"] == "6"
    assert "transfer-encoding" not in web.seen[0].headers


@pytest.mark.parametrize(("length", "says"), [(10, "3 bytes were written"), (2, "3 bytes were written")])
def test_a_body_of_another_length_than_was_said_is_refused(world: World, web: Web, length: int, says: str):
    async def main(api: Any) -> Any:
        upload = await api.call("http", "begin", ask(web.url("/echo"), method="POST"), length)
        await write(api, upload, b"abc")
        return await finished(api, upload)

    code, message = told(world, main)
    assert code == "bad_request"
    assert says in message
    assert world.runner.processes == {}


def test_a_program_waits_for_a_server_that_does_not_read(world: World, web: Web):
    written = 0

    async def main(api: Any) -> Any:
        nonlocal written
        upload = await api.call("http", "begin", ask(web.url("/unread"), method="POST"), None)
        for _ in range((8 << 20) // len(PIECE)):
            await write(api, upload, PIECE)
            written += len(PIECE)
        return await finished(api, upload)

    async def caught(api: Any, text: str) -> str:
        return json.dumps(await main(api))

    web_buffers = 6 << 20
    world.start(caught, capabilities=HERE)
    for _ in range(300):
        world.turn()
        time.sleep(0.001)
    assert written < ROOM + len(PIECE) + web_buffers < 8 << 20
    before = written
    web.done.set()
    finish(world)

    assert before < written == web.received == 8 << 20


def test_one_piece_at_a_time_and_none_too_large(world: World, web: Web):
    async def main(api: Any) -> Any:
        upload = await api.call("http", "begin", ask(web.url("/unread"), method="POST"), None)
        codes: list[str] = []
        large = base64.b64encode(bytes(700_000)).decode()
        for piece in (large, large, "A" * (2 << 20), "%"):
            try:
                await api.call("http", "[method]upload.write", upload, piece)
            except CallError as exc:
                codes.append(exc.code)
        return codes

    assert told(world, main) == ["overloaded", "too_large", "bad_request"]


def test_size_and_number_are_limited(world: World, web: Web):
    async def sums(api: Any) -> Any:
        upload = await api.call("http", "begin", ask(web.url("/echo"), method="POST"), None)
        for _ in range(200):
            await write(api, upload, PIECE)
        return await finished(api, upload)

    async def says(api: Any) -> Any:
        return await api.call("http", "begin", ask(web.url("/echo"), method="POST"), 9 << 20)

    async def many(api: Any) -> Any:
        for _ in range(3):
            await api.call("http", "begin", ask(web.url("/echo"), method="POST"), None)

    for pid, (main, limit) in enumerate([(sums, "http_bytes"), (says, "http_bytes"), (many, "http_requests")]):
        code, message = told(world, main, f"p{pid}")
        assert code == "limit_exceeded"
        assert limit in message


def test_an_upload_that_takes_too_long_ends(world: World, web: Web):
    async def main(api: Any) -> Any:
        record = ask(web.url("/echo"), method="POST", timeout=200_000_000)
        upload = await api.call("http", "begin", record, None)
        await api.wait("futures.done", await api.call("clocks", "sleep", 2 * 10**9))
        await write(api, upload, b"late")
        return await finished(api, upload)

    world.start(lambda api, text: main(api), capabilities=HERE)
    finish(world)
    last = world.log()[-1]
    assert last.error is not None
    assert last.error.cause == "deadline_exceeded"


def test_an_answer_that_is_given_before_the_end_is_got_after_it(world: World, web: Web):
    async def main(api: Any) -> Any:
        upload = await api.call("http", "begin", ask(web.url("/early"), method="POST"), None)
        for _ in range(100):
            await write(api, upload, PIECE)
        return await finished(api, upload)

    assert told(world, main) == [413, "enough"]


def test_a_server_that_hangs_up_before_the_end_is_told_at_a_write(world: World, web: Web):
    async def main(api: Any) -> Any:
        upload = await api.call("http", "begin", ask(web.url("/hang-up"), method="POST"), None)
        while True:
            await write(api, upload, PIECE)

    assert told(world, main)[0] == "unavailable"


def test_redirects_that_keep_the_body_are_the_program_s(world: World, web: Web):
    async def main(api: Any, status: int) -> Any:
        url = web.url(f"/redirect?{status}")
        upload = await api.call("http", "begin", ask(url, method="POST", redirects=3), None)
        await write(api, upload, b"once")
        return await finished(api, upload)

    assert told(world, lambda api: main(api, 303)) == [200, ""]
    assert told(world, lambda api: main(api, 307), "p2") == [307, ""]


def test_a_server_that_is_not_there_is_told_at_the_next_write(world: World):
    with serving() as other:
        free = other.port

    async def main(api: Any) -> Any:
        upload = await api.call("http", "begin", ask(f"http://127.0.0.1:{free}/", method="POST"), None)
        while True:
            await write(api, upload, PIECE)

    assert told(world, main)[0] == "unavailable"


@pytest.mark.parametrize("how", ["drop", "kill while it waits", "kill while it writes"])
def test_what_ends_before_its_body_closes_the_connection_and_leaves_nothing(world: World, web: Web, how: str):
    begun: list[int] = []

    async def main(api: Any, text: str) -> str:
        path = "/unread" if how == "kill while it waits" else "/echo"
        upload = await api.call("http", "begin", ask(web.url(path), method="POST"), None)
        await write(api, upload, b"a")
        begun.append(1)
        while how == "kill while it waits":
            await write(api, upload, PIECE)
        if how == "drop":
            api.drop(upload)
        await api.wait("futures.done", await api.call("clocks", "sleep", 10**18))
        return ""

    world.start(main, capabilities=HERE)
    world.run_in_real_time(lambda: "p1" in world.runner.processes)
    [process] = world.runner.processes.values()
    outside = process.outside
    if how == "drop":
        world.run_in_real_time(lambda: bool(begun) and outside.requests_under_way == 0)
    else:
        for _ in range(100):
            world.turn()
            time.sleep(0.001)
    world.push(Kill("p1", "by the test"))
    finish(world)

    assert outside.requests_under_way == 0
    assert len(process.waitables) == 0
    assert wait_for(lambda: not web.seen)


def test_an_upload_is_finished_once(world: World, web: Web):
    async def main(api: Any) -> Any:
        upload = await api.call("http", "begin", ask(web.url("/echo"), method="POST"), None)
        first = await finished(api, upload)
        codes: list[str] = []
        for method, arguments in (("finish", []), ("write", ["QQ=="])):
            try:
                await api.call("http", f"[method]upload.{method}", upload, *arguments)
            except CallError as exc:
                codes.append(exc.code)
        return [*first, *codes]

    assert told(world, main) == [200, "", "closed", "closed"]
