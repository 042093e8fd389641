"""Restarts of the gateway and deaths of runners: nothing durable is lost, every process ends once."""

from __future__ import annotations

import pytest
from gateway_world import FakeClient, FakeRunner, World
from pie_gateway.streams import SAVE_EVERY
from pie_wire.messages.common import MemberInfo
from pie_wire.messages.gateway import Attach, Launch, ListProcesses


def last_error(client: FakeClient, pid: str) -> str:
    error = client.events[pid][-1].error
    return error.code if error else ""


def test_a_dead_runner_ends_its_processes_as_lost(world: World, runner: FakeRunner, client: FakeClient):
    pid = client.launch()
    world.kill("runner-0")
    world.run()

    assert [e.kind for e in client.events[pid]] == ["started", "error"]
    assert last_error(client, pid) == "process_lost"


def test_a_runner_that_comes_back_after_it_was_given_up_must_end_what_it_has(
    world: World, runner: FakeRunner, client: FakeClient
):
    pid = client.launch()
    assert world.core is not None
    hub = world.hubs["gateway"]
    peer = next(p for p in hub.peers() if p.kind == "runner")
    hub.lost(peer, _gone())  # as after a long silence; the process itself lives
    runner.emit(pid, "message", "unheard")
    world.run(2.0)

    assert pid in runner.killed
    assert [e.kind for e in client.events[pid]] == ["started", "error"]
    assert client.launch() in runner.processes


def test_processes_go_on_over_a_restart_of_the_gateway(world: World, runner: FakeRunner, client: FakeClient):
    pid = client.launch()
    runner.emit(pid, "message", "before")
    world.run()

    world.kill("gateway")
    runner.emit(pid, "message", "meanwhile")
    world.start_gateway()
    world.run(1.0)
    client.attach(pid, 1)
    runner.emit(pid, "return", "null")
    world.run()

    assert client.texts(pid) == ["before", "meanwhile"]
    assert client.seqs(pid) == [1, 2, 3, 4]


def test_a_launch_repeated_after_a_restart_is_the_same_process(world: World, runner: FakeRunner, client: FakeClient):
    pid = client.launch()
    world.restart_gateway()
    world.run(1.0)

    assert client.ask(Launch(pid, "hello")).again
    assert runner.started == [pid]


def test_events_of_an_ended_process_are_there_after_a_restart(world: World, runner: FakeRunner, client: FakeClient):
    pid = client.launch()
    runner.emit(pid, "return", "4")
    world.run()
    world.restart_gateway()
    world.run(1.0)

    client.attach(pid, 1)
    world.run()

    assert [e.text for e in client.events[pid]] == ["", "4"]
    assert runner.killed == []


def test_a_runner_that_died_meanwhile_is_given_a_grace_then_its_processes_are_lost(
    world: World, runner: FakeRunner, client: FakeClient
):
    pid = client.launch()
    world.kill("gateway")
    world.kill("runner-0")
    world.start_gateway()
    world.run(2.0)
    client.attach(pid, 1)
    assert [e.kind for e in client.events[pid]] == ["started"]

    world.run(5.0)

    assert last_error(client, pid) == "process_lost"


def test_a_runner_the_member_list_calls_lost_gets_no_grace(world: World, runner: FakeRunner, client: FakeClient):
    pid = client.launch()
    world.kill("gateway")
    dead = world.hubs["runner-0"].identity
    world.kill("runner-0")
    world.kvstore.members.append(MemberInfo("runner", dead.name, 3, incarnation=dead.incarnation, state="lost"))
    world.start_gateway()
    world.run(1.0)

    client.attach(pid, 1)
    world.run()

    assert last_error(client, pid) == "process_lost"


def test_a_successor_of_the_same_name_does_not_have_the_processes(world: World, runner: FakeRunner, client: FakeClient):
    pid = client.launch()
    world.kill("gateway")
    world.kill("runner-0")
    world.start_gateway()
    successor = world.runner("runner-0")
    world.run(1.0)

    client.attach(pid, 1)
    world.run()

    assert last_error(client, pid) == "process_lost"
    assert client.launch() in successor.processes


def test_a_process_the_gateway_does_not_know_is_ended(world: World, runner: FakeRunner, client: FakeClient):
    pid = client.launch()
    world.log.forget(pid)
    world.restart_gateway()
    world.run(1.0)

    assert pid in runner.killed
    assert runner.processes == {}


def test_what_ends_with_its_client_ends_when_no_client_comes_back(world: World, runner: FakeRunner, client: FakeClient):
    ends = client.launch(on_disconnect="terminate")
    kept = client.launch(on_disconnect="terminate")
    world.restart_gateway()
    world.run(1.0)
    client.attach(kept, 1)

    world.run(world.config.reattach_grace)

    assert runner.killed == [ends]
    assert [p.pid for p in client.ask(ListProcesses()).processes] == [kept]


def test_a_terminate_before_the_runner_is_back_is_carried_out_then(
    world: World, runner: FakeRunner, client: FakeClient
):
    from pie_wire.messages.gateway import Terminate

    pid = client.launch()
    world.kill("gateway")
    hub = world.hubs.pop("runner-0")
    world.start_gateway()
    world.run(0.5)
    ending = client.send(Terminate(pid, "enough"))
    world.run(0.5)
    assert not ending

    world.hubs["runner-0"] = hub
    world.run(2.0)

    assert ending[0].error is None
    client.attach(pid, 1)
    world.run()
    assert last_error(client, pid) == "terminated"


def test_acknowledged_numbers_survive(world: World, runner: FakeRunner, client: FakeClient):
    pid = client.launch()
    runner.emit(pid, "message", "x")
    world.run(SAVE_EVERY * 2)
    world.restart_gateway()
    world.run(1.0)

    assert client.ask(Attach(pid, 3)).process.acked_seq == 2


def test_a_failing_log_stops_the_gateway_instead_of_losing_events(
    world: World, runner: FakeRunner, client: FakeClient, monkeypatch: pytest.MonkeyPatch
):
    from pie_gateway.log import LogError

    pid = client.launch()

    def full(*_: object) -> None:
        raise LogError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(world.log, "commit", full)
        runner.emit(pid, "message", "precious")
        world.run()
        assert world.core is not None
        assert isinstance(world.core.fatal, LogError)
        assert client.texts(pid) == []
    world.restart_gateway()
    world.run(1.0)
    client.attach(pid, 1)
    world.run()

    assert client.texts(pid) == ["precious"]


def _gone():
    from pie_wire.errors import PeerLost

    return PeerLost("nothing heard")
