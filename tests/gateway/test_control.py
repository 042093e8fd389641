"""Signals, terminations, and clients that vanish."""

from __future__ import annotations

import pytest
from gateway_world import FakeClient, FakeRunner, World
from pie_gateway.control import MAX_UNDELIVERED, MAX_UNDELIVERED_BYTES
from pie_gateway.runners import MESSAGE_BYTES
from pie_wire.errors import (
    BadField,
    BadRequest,
    Gone,
    NotFound,
    Overloaded,
    PieError,
    StoreUnavailable,
    Terminated,
    TooLarge,
)
from pie_wire.messages.common import MAX_EVENT_BYTES
from pie_wire.messages.gateway import DeadMessages, Launch, ListProcesses, Purge, SendFile, Signal, Terminate, Topics
from pie_wire.messages.kvstore import DeadMessage, TopicInfo


def test_signals_reach_the_process_in_order(world: World, runner: FakeRunner, client: FakeClient):
    pid = client.launch()

    client.ask(Signal(pid, "one"))
    client.ask(Signal(pid, binary=True), b"two")

    assert runner.processes[pid].received == ["one", "two"]


def test_bad_signals_are_refused(world: World, runner: FakeRunner, client: FakeClient):
    pid = client.launch()

    with pytest.raises(TooLarge):
        client.ask(Signal(pid, "x" * (MAX_EVENT_BYTES + 1)))
    with pytest.raises(BadField):
        client.ask(Signal(pid, binary=True))
    with pytest.raises(NotFound):
        client.ask(Signal("0" * 32, "hello"))
    runner.emit(pid, "return", "null")
    world.run()
    with pytest.raises(Gone):
        client.ask(Signal(pid, "hello"))


def test_terminate_is_answered_when_the_terminal_event_is_there(world: World, runner: FakeRunner, client: FakeClient):
    pid = client.launch()

    client.ask(Terminate(pid, "enough"))

    assert client.events[pid][-1].error is not None
    assert client.events[pid][-1].error.message == "enough"
    client.ask(Terminate(pid))


def test_a_runner_that_does_not_end_a_process_is_overruled(world: World, runner: FakeRunner, client: FakeClient):
    runner.obeys = False
    pid = client.launch()

    client.ask(Terminate(pid, "enough"))
    runner.emit(pid, "message", "still here")
    world.run()

    assert [e.kind for e in client.events[pid]] == ["started", "error"]
    assert runner.killed == [pid, pid]


def test_a_runner_is_freed_of_what_it_says_after_it_was_overruled(world: World, runner: FakeRunner, client: FakeClient):
    runner.obeys = False
    pid = client.launch()
    client.ask(Terminate(pid, "enough"))

    runner.emit(pid, "message", "still here")
    last = runner.emit(pid, "error", error=Terminated("enough"))
    world.run()

    assert runner.processes[pid].durable == last.seq
    assert [e.kind for e in client.events[pid]] == ["started", "error"]


def test_a_vanished_client_takes_along_what_it_asked_to_end(world: World, runner: FakeRunner, client: FakeClient):
    ends = client.launch(on_disconnect="terminate")
    stays = client.launch()
    handed_over = client.launch(on_disconnect="terminate")
    heir = world.client("heir")
    heir.attach(handed_over, 1)

    world.kill("client")
    world.run()

    assert runner.killed == [ends]
    runner.emit(stays, "message", "nobody listens")
    world.run()
    heir.attach(stays, 1)
    world.run()
    assert heir.texts(stays) == ["nobody listens"]


def test_a_client_that_vanishes_while_its_process_starts(world: World, runner: FakeRunner, client: FakeClient):
    runner.silent = True
    pid = world.pid()
    client.send(_launch(pid))
    world.run(0.1)
    assert runner.started == [pid]

    world.kill("client")
    world.run()

    assert runner.killed == [pid]


def test_lists_show_running_processes_and_ended_ones_on_request(world: World, runner: FakeRunner, client: FakeClient):
    running, ended = client.launch(), client.launch()
    runner.emit(ended, "error", error=NotFound("x"))
    world.run()

    assert [p.pid for p in client.ask(ListProcesses()).processes] == [running]
    everything = {p.pid: p for p in client.ask(ListProcesses(ended=True)).processes}
    assert everything[ended].state == "failed"
    assert everything[ended].error is not None
    assert everything[ended].error.code == "not_found"


def _launch(pid: str):
    from pie_wire.messages.gateway import Launch

    return Launch(pid, "hello", on_disconnect="terminate")


def test_messages_that_nobody_takes_are_bounded(world: World, runner: FakeRunner, client: FakeClient):
    pid = client.launch()

    answers = [client.send(Signal(pid, str(i))) for i in range(MAX_UNDELIVERED + 1)]
    world.run()

    assert [type(a[0].error) for a in answers] == [type(None)] * MAX_UNDELIVERED + [Overloaded]
    client.ask(Signal(pid, "later"))


def flood(client: FakeClient, pid: str, count: int, tenant: str = "local") -> list[PieError | None]:
    """What so many messages of the largest size are answered with at once; None: they are on their way."""
    message = Signal(pid, "x" * MAX_EVENT_BYTES)
    answers = [client.send(message, tenant=tenant) for _ in range(count)]
    client.world.run(0.1)
    return [answer[0].error if answer else None for answer in answers]


def test_bytes_that_a_runner_does_not_take_are_bounded_for_each_process(
    world: World, runner: FakeRunner, client: FakeClient
):
    pid, quiet = client.launch(), client.launch()
    runner.takes_messages = False

    errors = flood(client, pid, 20)

    accepted = MAX_UNDELIVERED_BYTES // MAX_EVENT_BYTES
    assert errors[:accepted] == [None] * accepted
    assert {type(error) for error in errors[accepted:]} == {Overloaded}
    assert pid in str(errors[-1])
    assert flood(client, quiet, 1) == [None], "another process has room of its own"

    part = client.send(SendFile(pid, world.pid(), "n.txt", 2, 0), b"xy")
    world.run(0.1)
    assert isinstance(part[0].error, Overloaded), "parts of files count as well"


def test_one_tenants_floods_leave_the_way_to_a_runner_to_others(world: World, client: FakeClient):
    runner = world.runner("runner-0", 100)
    mine = [client.launch() for _ in range(MESSAGE_BYTES // MAX_UNDELIVERED_BYTES)]
    other = world.pid()
    client.ask(Launch(other, "hello"), tenant="other")
    runner.takes_messages = False

    errors = [error for pid in mine for error in flood(client, pid, 9)]

    on_their_way = errors.count(None) * MAX_EVENT_BYTES
    assert MESSAGE_BYTES // 4 < on_their_way <= MESSAGE_BYTES // 2
    assert "tenant local" in str(next(error for error in errors[::-1] if error))
    assert flood(client, other, 3, tenant="other") == [None] * 3

    world.run(11.0)
    runner.takes_messages = True
    client.ask(Signal(mine[0], "later"))


def test_a_dead_runner_owes_no_tenant_anything(world: World, runner: FakeRunner, client: FakeClient):
    pid = client.launch()
    runner.takes_messages = False
    assert flood(client, pid, 20).count(None) == MAX_UNDELIVERED_BYTES // MAX_EVENT_BYTES
    world.kill("runner-0")
    world.run()
    successor = world.runner()
    pid = client.launch()
    successor.takes_messages = False

    assert flood(client, pid, 20).count(None) == MAX_UNDELIVERED_BYTES // MAX_EVENT_BYTES


def test_topics_are_looked_up_in_kvstore(world: World, client: FakeClient):
    assert client.ask(Topics()).topics == [TopicInfo("jobs", 1, 0, 2, 30)]
    assert client.ask(DeadMessages("jobs")).messages == [DeadMessage(7, "jobs", 1.0)]
    assert [client.ask(Purge("jobs", waiting)).messages for waiting in (False, True)] == [2, 3]

    world.kvstore.failing = True
    with pytest.raises(StoreUnavailable):
        client.ask(Topics())


def test_parts_of_files_reach_the_runner(world: World, runner: FakeRunner, client: FakeClient):
    pid, file = client.launch(), world.pid()
    for offset, part in ((0, b"he"), (2, b"llo")):
        client.ask(SendFile(pid, file, "n.txt", 5, offset), part)

    assert [(m.file, m.name, m.size, m.offset, data) for m, data in runner.parts] == [
        (file, "n.txt", 5, 0, b"he"),
        (file, "n.txt", 5, 2, b"llo"),
    ]


@pytest.mark.parametrize(
    ("fields", "buffers", "error"),
    [
        ({"name": "../x"}, [b"x"], BadRequest),
        ({"file": "x"}, [b"x"], BadField),
        ({}, [], BadField),
        ({}, [b"x", b"y"], BadField),
        ({}, [bytes(MAX_EVENT_BYTES + 1)], BadField),
        ({"pid": "0" * 32}, [b"x"], NotFound),
    ],
)
def test_bad_parts_of_files(
    world: World,
    runner: FakeRunner,
    client: FakeClient,
    fields: dict[str, str],
    buffers: list[bytes],
    error: type[Exception],
):
    given = {"pid": client.launch(), "file": world.pid(), "name": "a", "size": 1} | fields

    with pytest.raises(error):
        client.ask(SendFile(**given), *buffers)
    assert runner.parts == []


def test_no_file_for_one_that_has_ended_or_for_others(world: World, runner: FakeRunner, client: FakeClient):
    pid = client.launch()
    with pytest.raises(NotFound):
        client.ask(SendFile(pid, world.pid(), "a", 1), b"x", user="mallory")
    runner.emit(pid, "return", "1")
    world.run()
    with pytest.raises(Gone):
        client.ask(SendFile(pid, world.pid(), "a", 1), b"x")
