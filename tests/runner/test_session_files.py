"""Named files between a program and its client: parts, limits, room."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pie_runner.file_box import IDLE_SECONDS, MAX_FILES, FileBox
from pie_runner.process_limits import ProcessLimits
from pie_runner.waitables import Waitables
from pie_runner.wasm.hostcall import Ok
from pie_wire.errors import BadField, BadRequest, Overloaded, PieError, TooLarge
from pie_wire.file_names import PART_BYTES
from pie_wire.messages.common import Event
from pie_wire.messages.runner import DeliverFile, Kill
from runner_world import World

A, B = "a" * 32, "b" * 32


def box(limit: int = 1000, clock: Any = lambda: 0.0) -> FileBox:
    return FileBox(Waitables(), ProcessLimits(file_bytes=limit), clock)


def received(files: FileBox) -> tuple[str, bytes] | None:
    pending = files.receive()
    answer = pending.get()
    if answer is None:
        pending.close()
        return None
    assert isinstance(answer, Ok)
    return answer.value.name, base64.b64decode(answer.value.content, validate=True)


class TestBox:
    @given(st.binary(max_size=200), st.integers(1, 50), st.integers(0, 2))
    def test_any_parts_make_the_file(self, data: bytes, step: int, repeats: int):
        files = box()
        for at in range(0, len(data) or 1, step):
            for _ in range(1 + repeats):
                files.put(A, "a.bin", len(data), at, data[at : at + step])

        assert received(files) == ("a.bin", data)
        assert received(files) is None

    def test_in_the_order_in_which_they_were_whole(self):
        files = box()
        files.put(A, "a", 2, 0, b"x")
        files.put(B, "b", 1, 0, b"y")
        files.put(A, "a", 2, 1, b"z")

        assert [received(files), received(files)] == [("b", b"y"), ("a", b"xz")]

    @pytest.mark.parametrize(
        ("name", "size", "offset", "part", "error"),
        [
            ("a", 5, 3, b"x", BadField),
            ("a", 5, 0, b"xxxxxx", BadField),
            ("a", -1, 0, b"", BadField),
            ("../a", 1, 0, b"x", BadRequest),
            ("", 1, 0, b"x", BadRequest),
            ("a", 1001, 0, b"x", TooLarge),
        ],
    )
    def test_bad_parts(self, name: str, size: int, offset: int, part: bytes, error: type[PieError]):
        with pytest.raises(error):
            box().put(A, name, size, offset, part)

    def test_another_file_under_the_same_id(self):
        files = box()
        files.put(A, "a", 5, 0, b"x")
        for name, size, offset in (("b", 5, 1), ("a", 6, 1), ("a", 5, 2)):
            with pytest.raises(BadField):
                files.put(A, name, size, offset, b"x")

    def test_room_comes_back_when_files_are_received(self):
        files = box(limit=300)
        for key in (A, B):
            files.put(key, "a", 300, 0, b"x" * 300)
        with pytest.raises(Overloaded):
            files.put("c" * 32, "a", 300, 0, b"x")

        received(files)
        files.put("c" * 32, "a", 300, 0, b"x" * 300)

    def test_too_many_small_ones(self):
        files = box()
        for number in range(MAX_FILES):
            files.put(f"{number:032x}", "a", 1, 0, b"x")
        with pytest.raises(Overloaded):
            files.put(A, "a", 1, 0, b"x")

    def test_one_that_stopped_arriving_makes_room(self):
        now = [0.0]
        files = box(limit=300, clock=lambda: now[0])
        for key in (A, B):
            files.put(key, "a", 300, 0, b"x")
        now[0] = IDLE_SECONDS + 1
        files.put("c" * 32, "a", 300, 0, b"x" * 300)

        assert received(files) == ("a", b"x" * 300)


def joined(events: list[Event]) -> dict[str, bytes]:
    """Files by name, as a client puts them together."""
    found: dict[str, bytes] = {}
    for event in events:
        if event.kind == "file":
            header = json.loads(event.text)
            found[header["name"]] = found.get(header["name"], b"") + event.data
            assert len(found[header["name"]]) == header["offset"] + len(event.data) <= header["size"]
    return found


async def echo(api: Any, text: str) -> str:
    """Send back the file that comes, in upper case."""
    pending = await api.call("session", "receive-file")
    file = await api.wait("session.pending-file", pending)
    api.drop(pending)
    content = base64.b64encode(base64.b64decode(file.content).upper()).decode()
    await api.call("session", "send-file", f"{file.name}.upper", content)
    return "null"


def test_a_file_both_ways(bare_world: World):
    world = bare_world
    world.start(echo)
    world.run(lambda: bool(world.log()))
    answers = [
        world.deliver(DeliverFile("p1", A, "n.txt", 5, at), part) for at, part in ((0, b"he"), (2, b"llo"), (2, b"llo"))
    ]
    world.run(world.ended)

    assert joined(world.log()) == {"n.txt.upper": b"HELLO"}
    assert [answer[0].error is None for answer in answers[:2]] == [True, True]


@pytest.mark.parametrize("size", [0, 1, PART_BYTES, PART_BYTES + 1, 20 << 20])
def test_a_file_of_any_size_arrives_whole(bare_world: World, size: int):
    """Also one that is larger than what may be unacknowledged."""
    content = bytes(range(256)) * (size // 256) + bytes(size % 256)

    async def sends(api: Any, text: str) -> str:
        await api.call("session", "send-file", "big", base64.b64encode(content).decode())
        return '"sent"'

    assert bare_world.outcome(sends).text == '"sent"'
    assert joined(bare_world.log()) == {"big": content}


def test_one_that_nobody_consumes_waits(bare_world: World):
    world = bare_world
    world.gateway.consumes = False

    async def sends(api: Any, text: str) -> str:
        await api.call("session", "send-file", "big", base64.b64encode(bytes(20 << 20)).decode())
        return '"sent"'

    world.start(sends)
    world.run(5.0)
    assert not world.ended()
    assert sum(event.size for event in world.log()) < 9 << 20

    world.gateway.consumes = True
    world.gateway.credit("p1")
    world.run(world.ended)
    assert joined(world.log()) == {"big": bytes(20 << 20)}


@pytest.mark.parametrize("size", [100, 20 << 20])
def test_kill_while_sending(bare_world: World, size: int):
    world = bare_world
    world.gateway.consumes = False
    world.hold_offloads = size > 100

    async def sends(api: Any, text: str) -> str:
        while True:
            await api.call("session", "send-file", "big", base64.b64encode(bytes(size)).decode())

    world.start(sends)
    world.run(0.5)
    world.push(Kill("p1", "enough"))
    world.run(world.ended)
    world.hold_offloads = False
    world.run(0.5)

    assert world.log()[-1].kind == "error"


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("../x", "", "bad_request"),
        ("", "", "bad_request"),
        ("x" * 256, "", "bad_request"),
        ("a", "no base64!", "bad_request"),
        ("a", "QUFB" * 1000, "limit_exceeded"),
    ],
)
def test_bad_files(model_files: dict[str, bytes], name: str, content: str, code: str):
    world = World(model_files, ProcessLimits(file_bytes=1000))

    async def sends(api: Any, text: str) -> str:
        await api.call("session", "send-file", name, content)
        return "null"

    error = world.outcome(sends).error
    assert error is not None
    assert error.cause == code


def test_what_is_dropped_never_arrives_and_is_no_deadlock(bare_world: World):
    world = bare_world
    world.gateway.consumes = False

    async def sends(api: Any, text: str) -> str:
        await api.call("session", "send-file", "big", base64.b64encode(bytes(20 << 20)).decode())
        return '"sent"'

    assert world.outcome(sends, on_full="drop").text == '"sent"'
    assert any(event.kind == "gap" for event in world.log())
