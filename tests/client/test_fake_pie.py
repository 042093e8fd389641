"""The client, by way of FakePie: what users' own tests rest on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pie_zmq
import pytest
from pie_wire.messages.client import ProcessEvents
from pie_wire.messages.common import Event
from pie_zmq import AsyncClient, Client
from pie_zmq.artifact import Artifact
from pie_zmq.errors import (
    BadField,
    BadRequest,
    Cancelled,
    Conflict,
    DeadlineExceeded,
    HashMismatch,
    NotFound,
    OutOfMemory,
    PeerLost,
    ProgramError,
    Terminated,
    TooLarge,
)
from pie_zmq.testing import FakePie, FakeRun

MANIFEST = '[package]\nname = "greet"\nversion = "0.1.0"\n'


async def greet(run: FakeRun, given: Any) -> Any:
    await run.send(f"hello {given.get('name', 'you')}")
    return {"greeted": given.get("name")}


async def count(run: FakeRun, given: Any) -> Any:
    for number in range(given["to"]):
        await run.send(str(number))


async def echo(run: FakeRun, given: Any) -> Any:
    heard: list[str] = []
    while (message := await run.receive()) != "stop":
        heard.append(message if isinstance(message, str) else message.decode())
        await run.send(message)
    return heard


async def fail(run: FakeRun, given: Any) -> Any:
    if given.get("typed"):
        raise OutOfMemory("no page left")
    raise ValueError("no luck")


async def shout(run: FakeRun, given: Any) -> Any:
    for _ in range(given["files"]):
        name, data = await run.receive_file()
        await run.send("one came")
        await run.send_file(f"{name}.upper", data.upper())


PROGRAMS = {"greet": greet, "count": count, "echo": echo, "fail": fail, "shout": shout}


def scenario(test: Callable[[FakePie, AsyncClient], Awaitable[None]]) -> Callable[[], None]:
    async def run() -> None:
        fake = FakePie(PROGRAMS)
        async with await AsyncClient.connect(transport=fake, timeout=5) as client:
            await asyncio.wait_for(test(fake, client), 20)

    def sync() -> None:
        asyncio.run(run())

    sync.__name__ = test.__name__
    return sync


@scenario
async def test_events_end_with_the_result(fake: FakePie, client: AsyncClient):
    process = await client.launch("greet", {"name": "Ada"})

    events = [e async for e in process.events()]

    assert [(e.seq, e.kind) for e in events] == [(1, "started"), (2, "message"), (3, "return")]
    assert await process.result() == {"greeted": "Ada"}


@scenario
async def test_a_result_without_a_reader_passes_over_the_events(fake: FakePie, client: AsyncClient):
    process = await client.launch("count", {"to": 5000})

    assert await process.result(10) is None
    assert [e async for e in process.events()] == []


@scenario
async def test_a_result_waits_beside_a_reader_without_taking_its_events(fake: FakePie, client: AsyncClient):
    process = await client.launch("echo")
    seen: list[str] = []

    async def read() -> None:
        seen.extend([e.text async for e in process.events() if e.kind == "message"])

    reader = asyncio.create_task(read())
    result = asyncio.create_task(process.result())
    for word in ("a", "b", "stop"):
        await process.signal(word)

    assert await result == ["a", "b"]
    await reader
    assert seen == ["a", "b"]


@scenario
async def test_reading_can_stop_and_go_on(fake: FakePie, client: AsyncClient):
    process = await client.launch("count", {"to": 10})
    async for event in process.events():
        if event.text == "4":
            break

    assert [e.text async for e in process.events() if e.kind == "message"] == ["5", "6", "7", "8", "9"]


@scenario
async def test_events_whose_columns_differ_are_not_taken(fake: FakePie, client: AsyncClient):
    process = await client.launch("echo")
    (peer,) = {held.reader for held in fake._processes.values()}
    assert peer is not None
    forged = [Event(2, "message", "forged")]

    for pids, counts in (([process.pid], [2]), ([process.pid], [1, 0]), ([process.pid, "b" * 32], [1])):
        fake.hub.send(peer, ProcessEvents(pids, counts, forged))
    await process.signal("stop")

    assert [(e.seq, e.kind) async for e in process.events()] == [(1, "started"), (2, "return")]
    assert await process.result() == []


@scenario
async def test_a_failed_program_raises_its_typed_error(fake: FakePie, client: AsyncClient):
    with pytest.raises(ProgramError, match="no luck"):
        await (await client.launch("fail")).result()
    with pytest.raises(OutOfMemory):
        await (await client.launch("fail", {"typed": True})).result()


@scenario
async def test_terminate_ends_with_the_reason(fake: FakePie, client: AsyncClient):
    process = await client.launch("echo")

    await process.terminate("enough")

    with pytest.raises(Terminated, match="enough"):
        await process.result()
    await process.terminate()


@scenario
async def test_a_result_in_time_or_a_typed_error(fake: FakePie, client: AsyncClient):
    process = await client.launch("echo")

    with pytest.raises(DeadlineExceeded):
        await process.result(0.05)
    await process.signal("stop")
    assert await process.result(5) == []


@scenario
async def test_binary_messages_travel_both_ways(fake: FakePie, client: AsyncClient):
    process = await client.launch("echo")
    await process.signal(b"\x61")
    await process.signal("stop")

    assert [e.data async for e in process.events() if e.kind == "binary"] == [b"a"]


@scenario
async def test_attach_takes_over_from_the_asked_number(fake: FakePie, client: AsyncClient):
    first = await client.launch("count", {"to": 5})
    await first.result()

    again = await client.attach(first.pid, 4)

    assert [e.seq async for e in again.events()] == [4, 5, 6, 7]
    with pytest.raises(NotFound):
        await client.attach("0" * 32)
    with pytest.raises(BadField):
        await client.attach(first.pid, 99)


@scenario
async def test_an_attach_elsewhere_replaces_the_reader(fake: FakePie, client: AsyncClient):
    process = await client.launch("echo")
    async with await AsyncClient.connect(transport=fake) as other:
        theirs = await other.attach(process.pid)
        with pytest.raises(Conflict):
            await process.result(5)
        await theirs.signal("stop")
        assert await theirs.result(5) == []


@scenario
async def test_a_second_attach_of_the_same_client_replaces_the_first(fake: FakePie, client: AsyncClient):
    process = await client.launch("echo")

    again = await client.attach(process.pid)

    with pytest.raises(Conflict):
        await process.result(5)
    await again.signal("stop")
    assert await again.result(5) == []


@scenario
async def test_after_detach_the_process_goes_on_unread(fake: FakePie, client: AsyncClient):
    process = await client.launch("echo")
    await process.detach()

    with pytest.raises(Cancelled, match="attach from event"):
        await process.result(5)
    assert [p.pid for p in await client.list()] == [process.pid]


@scenario
async def test_open_processes_go_on_over_a_restart_of_the_gateway(fake: FakePie, client: AsyncClient):
    process = await client.launch("echo")
    await process.signal("before")
    fake.restart()
    await process.signal("after")
    await process.signal("stop")

    assert await process.result(5) == ["before", "after"]


@scenario
async def test_a_launch_under_way_is_repeated_under_its_id(fake: FakePie, client: AsyncClient):
    launching = asyncio.create_task(client.launch("greet", {"name": "Bo"}))
    await asyncio.sleep(0)
    fake.restart()

    process = await launching

    assert await process.result(5) == {"greeted": "Bo"}
    assert len(await client.list(ended=True)) == 1


@scenario
async def test_what_a_vanished_client_owned_ends_if_the_launch_asked_for_it(fake: FakePie, client: AsyncClient):
    async with await AsyncClient.connect(transport=fake) as other:
        ends = await other.launch("echo", on_disconnect="terminate")
        stays = await other.launch("echo")
    for _ in range(100):
        alive = [p.pid for p in await client.list()]
        if ends.pid not in alive:
            break
        await asyncio.sleep(0.01)

    assert alive == [stays.pid]


@scenario
async def test_an_upload_sends_what_is_missing_and_a_wrong_one_is_told(fake: FakePie, client: AsyncClient):
    data = bytes(700_000)
    steps: list[tuple[int, int]] = []

    digest = await client.upload(data, progress=lambda done, size: steps.append((done, size)))

    assert steps[-1] == (700_000, 700_000)
    assert len(steps) == 3
    assert await client.upload(data, progress=lambda done, size: steps.append((done, size))) == digest
    assert len(steps) == 3

    class Mislabelled(Artifact):
        sha256 = "0" * 64

    with pytest.raises(HashMismatch):
        await client._upload(Mislabelled(b"x", "python"), None)


def test_install_reads_a_folder_or_takes_a_manifest(tmp_path: Path):
    (tmp_path / "main.py").write_text("print(1)")
    (tmp_path / "Pie.toml").write_text(MANIFEST)

    @scenario
    async def run(fake: FakePie, client: AsyncClient) -> None:
        from_folder = await client.install(tmp_path)
        assert (from_folder.ref.name, from_folder.ref.version, from_folder.ref.kind) == ("greet", "0.1.0", "python")
        component = await client.install(b"\0asm\x0d", MANIFEST)
        assert component.ref.kind == "component"
        assert len(await client.programs()) == 2
        with pytest.raises(BadField, match=r"Pie\.toml"):
            await client.install(b"print(1)")
        with pytest.raises(NotFound):
            await client.install(tmp_path / "nothing.py")

    run()


@scenario
async def test_input_that_is_no_json_is_refused_before_it_is_sent(fake: FakePie, client: AsyncClient):
    for bad in (object(), float("nan"), {1j}):
        with pytest.raises(BadField):
            await client.launch("greet", bad)


def test_a_program_file_is_checked_before_it_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pie_zmq.artifact, "MAX_ARTIFACT_BYTES", 3)
    (tmp_path / "big.py").write_text("1234")
    with pytest.raises(TooLarge):
        pie_zmq.artifact.of_path(tmp_path / "big.py")


@scenario
async def test_a_process_that_nobody_holds_is_detached(fake: FakePie, client: AsyncClient):
    pid = (await client.launch("echo")).pid
    await client.signal(pid, "to nobody")
    for _ in range(100):
        if fake._processes[pid].reader is None:
            break
        await asyncio.sleep(0.01)

    assert fake._processes[pid].reader is None


def test_a_closed_client_says_so():
    async def run() -> None:
        client = await AsyncClient.connect(transport=FakePie(PROGRAMS))
        process = await client.launch("echo")
        client.close()
        with pytest.raises(PeerLost):
            await process.result(1)
        with pytest.raises(Cancelled):
            await client.list()

    asyncio.run(run())


def test_the_synchronous_client_works_on_the_fake_too():
    with Client(transport=FakePie(PROGRAMS)) as client:
        process = client.launch("count", {"to": 300})
        assert [e.text for e in process.events() if e.kind == "message"] == [str(n) for n in range(300)]
        talk = client.launch("echo")
        talk.signal("stop")
        assert talk.result(5) == []
        assert client.status().models[0].name == "fake"
        assert client.pages().engines == []
        with pytest.raises(ProgramError):
            client.launch("fail").result(5)
    client.close()
    with pytest.raises(Cancelled):
        client.list()


def test_the_public_names():
    assert {"AsyncClient", "Client", "PieError", "Process", "AsyncProcess", "Event"} <= set(pie_zmq.__all__)
    assert all(hasattr(pie_zmq, name) for name in pie_zmq.__all__)
    assert all(issubclass(getattr(pie_zmq.errors, n), pie_zmq.PieError) for n in pie_zmq.errors.__all__)


@scenario
async def test_files_both_ways(fake: FakePie, client: AsyncClient) -> None:
    big = b"abc" * 300_000
    process = await client.launch("shout", {"files": 3})
    for name, data in (("empty", b""), ("small", "hello"), ("big", big)):
        await process.send_file(name, data)

    events = [event async for event in process.events()]

    files = [(event.text, event.data) for event in events if event.kind == "file"]
    assert files == [("empty.upper", b""), ("small.upper", b"HELLO"), ("big.upper", big.upper())]
    assert [event.seq for event in events] == sorted(event.seq for event in events)
    assert process.last_seq == events[-1].seq


@scenario
async def test_a_file_outlives_the_gateway(fake: FakePie, client: AsyncClient) -> None:
    data = bytes(2_000_000)
    process = await client.launch("shout", {"files": 1})
    sending = asyncio.ensure_future(process.send_file("big", data))
    await asyncio.sleep(0.01)
    fake.restart()
    await sending

    files = [event async for event in process.events() if event.kind == "file"]
    assert [(event.text, event.data) for event in files] == [("big.upper", data)]


@scenario
async def test_a_name_that_is_a_path(fake: FakePie, client: AsyncClient) -> None:
    process = await client.launch("shout", {"files": 1})
    with pytest.raises(BadRequest):
        await process.send_file("../x", b"")
