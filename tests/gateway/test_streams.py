"""Event streams: dense numbers, one terminal event, windows, credit, attach and what is kept."""

from __future__ import annotations

import pytest
from gateway_world import GATEWAY, FakeClient, FakeRunner, World
from pie_gateway.attachment import WINDOW_EVENTS
from pie_gateway.process_index import NUMBERS_EVERY
from pie_gateway.streams import CREDIT_EVERY, HURRY_BYTES
from pie_wire.errors import BadField, Gone, NotFound
from pie_wire.messages.common import Event
from pie_wire.messages.gateway import AckEvents, Announce, Attach, Detach, Events, ListProcesses, RunningProcess
from pie_wire.messages.runner import Credit


def test_repeated_events_are_dropped_by_number(world: World, runner: FakeRunner, client: FakeClient):
    pid = client.launch()
    event = runner.emit(pid, "message", "once")
    runner.push(pid, [event, event])
    runner.push(pid, [Event(1, "started"), event])
    world.run()

    assert client.seqs(pid) == [1, 2]


def test_nothing_follows_the_terminal_event(world: World, runner: FakeRunner, client: FakeClient):
    pid = client.launch()
    runner.emit(pid, "return", "1")
    runner.push(pid, [Event(3, "message", "late"), Event(4, "return", "2")])
    world.run()

    assert [e.kind for e in client.events[pid]] == ["started", "return"]


def test_a_stream_with_a_hole_ends_with_an_error(world: World, runner: FakeRunner, client: FakeClient):
    pid = client.launch()
    world.run()
    runner.push(pid, [Event(5, "message", "too far")])
    runner.push(pid, [Event(2, "message", "too late")])
    world.run()

    assert [(e.seq, e.kind) for e in client.events[pid]] == [(1, "started"), (2, "error")]
    assert client.events[pid][-1].error is not None
    assert client.events[pid][-1].error.code == "internal"
    assert pid in runner.killed


def test_a_client_that_does_not_acknowledge_gets_one_window_and_the_rest_later(
    world: World, runner: FakeRunner, client: FakeClient
):
    client.acks = False
    pid = client.launch()
    for number in range(3000):
        runner.emit(pid, "message", str(number))
    world.run()
    assert client.seqs(pid) == list(range(1, WINDOW_EVENTS + 1))
    assert runner.processes[pid].durable == 3001
    assert runner.processes[pid].consumed == 0

    client.acks = True
    client.ack(pid, 10)
    world.run()

    assert client.seqs(pid) == list(range(1, 3002))
    assert runner.processes[pid].consumed == 3001


def test_acknowledgements_whose_columns_differ_count_for_nothing(world: World, runner: FakeRunner, client: FakeClient):
    client.acks = False
    pid = client.launch()
    runner.emit(pid, "message", "one")
    world.run()
    peer = client.hub.peer(GATEWAY)
    assert peer is not None

    client.hub.send(peer, AckEvents([pid], [1, 2]))
    client.hub.send(peer, AckEvents([pid, pid], [2]))
    world.run()
    assert runner.processes[pid].consumed == 0

    client.ack(pid, 2)
    world.run()
    assert runner.processes[pid].consumed == 2


def test_the_window_counts_bytes_too(world: World, runner: FakeRunner, client: FakeClient):
    client.acks = False
    pid = client.launch()
    for _ in range(5):
        runner.emit(pid, "message", "x" * 400_000)
    world.run()
    assert client.seqs(pid) == [1, 2, 3, 4]  # the last one may pass the limit, so that any size gets through

    client.ack(pid, 3)
    world.run()
    assert client.seqs(pid) == [1, 2, 3, 4, 5, 6]


def test_an_event_larger_than_the_window_still_goes_through(world: World, runner: FakeRunner, client: FakeClient):
    pid = client.launch()
    runner.emit(pid, "message", "x" * (2 << 20))
    runner.emit(pid, "return", "null")
    world.run()

    assert client.seqs(pid) == [1, 2, 3]


@pytest.mark.parametrize("start", [1, 2, 5, 6])
def test_attach_gives_every_event_from_the_asked_number(
    world: World, runner: FakeRunner, client: FakeClient, start: int
):
    pid = client.launch()
    for number in range(4):
        runner.emit(pid, "message", str(number))
    world.run()

    client.attach(pid, start)
    runner.emit(pid, "return", "null")
    world.run()

    assert client.seqs(pid) == list(range(start, 7))


def test_attach_outside_of_the_stream_is_refused(world: World, runner: FakeRunner, client: FakeClient):
    pid = client.launch()
    world.run()

    for start in (0, -1, 3):
        with pytest.raises(BadField):
            client.ask(Attach(pid, start))
    with pytest.raises(NotFound):
        client.ask(Attach("0" * 32))


def test_a_new_attach_replaces_the_old_one(world: World, runner: FakeRunner, client: FakeClient):
    pid = client.launch()
    other = world.client("other")

    other.attach(pid, 1)
    runner.emit(pid, "message", "for the other")
    world.run()

    assert client.replaced == [pid]
    assert client.texts(pid) == []
    assert other.texts(pid) == ["for the other"]


def test_after_detach_nothing_is_pushed_but_everything_is_kept(world: World, runner: FakeRunner, client: FakeClient):
    pid = client.launch()
    world.run()
    client.ask(Detach(pid))
    runner.emit(pid, "message", "kept")
    world.run()
    assert client.texts(pid) == []

    client.attach(pid, 2)
    world.run()
    assert client.texts(pid) == ["kept"]


def test_consumed_events_beyond_the_cap_are_trimmed_and_a_late_attach_sees_a_gap():
    world = World(log_process_bytes=10_000)
    runner, client = world.runner(), world.client()
    pid = client.launch()
    for number in range(40):
        runner.emit(pid, "message", f"{number:01000d}")
        world.run(0.1)
    assert world.core is not None
    record = world.core.table.find(pid, _local()).record
    assert record.kept_bytes <= 10_000 + 1032
    first = record.first_seq

    late = world.client("late")
    late.attach(pid, 3)
    world.run()

    gap, *rest = late.events[pid]
    assert (gap.kind, gap.seq, gap.text) == ("gap", first - 1, str(first - 3))
    assert [e.seq for e in rest] == list(range(first, 42))


def test_events_nobody_consumed_are_never_trimmed():
    world = World(log_process_bytes=10_000)
    runner, client = world.runner(), world.client()
    client.acks = False
    pid = client.launch()
    for _ in range(40):
        runner.emit(pid, "message", "x" * 1000)
    world.run()

    late = world.client("late")
    late.attach(pid, 1)
    world.run()

    assert late.seqs(pid) == list(range(1, 42))


def test_events_of_ended_processes_are_kept_for_a_while_then_gone(world: World, runner: FakeRunner, client: FakeClient):
    pid = client.launch()
    runner.emit(pid, "return", "null")
    world.run()
    world.unix += world.config.keep_ended - 1
    world.run(0.1)
    client.attach(pid, 1)

    world.unix += 2
    world.run(0.1)

    with pytest.raises(Gone):
        client.ask(Attach(pid))
    assert client.ask(ListProcesses(ended=True)).processes == []


@pytest.mark.parametrize("limits", [{"keep_ended_count": 2}, {"log_total_bytes": 3000}])
def test_too_many_or_too_large_ended_processes_go_oldest_first(limits: dict[str, int]):
    world = World(**limits)
    runner, client = world.runner(), world.client()
    pids: list[str] = []
    for _ in range(4):
        pids.append(client.launch())
        runner.emit(pids[-1], "message", "x" * 1200)
        runner.emit(pids[-1], "return", "null")
        world.run(0.1)

    assert [p.pid for p in client.ask(ListProcesses(ended=True)).processes] == pids[2:]


def test_events_of_a_process_another_runner_has_are_refused(world: World, runner: FakeRunner, client: FakeClient):
    pid = client.launch()
    intruder = world.runner("intruder")
    intruder.push(pid, [Event(2, "message", "forged")])
    world.run()

    assert client.texts(pid) == []
    assert intruder.killed == [pid]


def test_a_client_cannot_pose_as_a_runner(world: World, runner: FakeRunner, client: FakeClient):
    pid = client.launch()
    peer = client.hub.peer("gateway")
    assert peer is not None
    client.hub.send(peer, Events([pid], [1], [Event(2, "message", "forged")]))
    answers = client.send(Announce(5, [RunningProcess(pid, 1, 1)]))
    world.run()

    assert client.texts(pid) == []
    assert answers[0].error is not None
    assert answers[0].error.code == "unknown_verb"


def test_columns_that_do_not_add_up_are_refused_whole(world: World, runner: FakeRunner, client: FakeClient):
    pid = client.launch()
    assert runner.peer is not None
    runner.hub.send(runner.peer, Events([pid], [2], [Event(2, "message", "half")]))
    world.run()

    assert client.texts(pid) == []
    runner.emit(pid, "message", "whole")
    world.run()
    assert client.texts(pid) == ["whole"]


def test_rows_reach_the_process_index_also_after_an_outage(world: World, runner: FakeRunner, client: FakeClient):
    pid = client.launch()
    world.run(1.0)
    assert world.kvstore.rows[pid].state == "running"

    world.kvstore.failing = True
    runner.emit(pid, "return", "null")
    world.run(3.0)
    assert world.kvstore.rows[pid].state == "running"
    world.kvstore.failing = False
    world.run(3.0)

    assert world.kvstore.rows[pid].state == "returned"
    assert world.kvstore.rows[pid].last_seq == 2


def test_the_numbers_of_a_row_follow_after_a_while(world: World, runner: FakeRunner, client: FakeClient):
    pid = client.launch()
    world.run(1.0)
    for _ in range(2):
        runner.emit(pid, "message", "x")
        world.run(1.0)
    assert world.kvstore.rows[pid].last_seq == 2

    world.run(NUMBERS_EVERY)

    assert world.kvstore.rows[pid].last_seq == 3


def test_credit_is_gathered_unless_much_has_come(world: World, runner: FakeRunner, client: FakeClient):
    pid = client.launch()
    world.run(CREDIT_EVERY * 2)
    told: list[int] = []
    runner.hub.on(Credit, lambda incoming: told.append(incoming.message.durable[0]))

    for number in range(10):
        runner.emit(pid, "message", str(number))
        world.run(CREDIT_EVERY / 10)
    assert len(told) <= 2
    world.run(CREDIT_EVERY)
    assert told[-1] == 11
    for last in (13, 15, 17):
        runner.emit(pid, "message", "x" * (HURRY_BYTES - 1000))
        runner.emit(pid, "message", "x" * 1000)
        world.run(0.1)
        assert told[-1] == last


def _local():
    from pie_wire.hub import Scope

    return Scope()
