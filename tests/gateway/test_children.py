"""Programs launched by programs: as the parent's user, within limits, ended with the parent unless detached."""

from __future__ import annotations

from typing import Any

import pytest
from gateway_world import HELLO, FakeClient, FakeRunner, World
from pie_gateway.policy import Policy, Rule
from pie_wire.capabilities import Capabilities, Grants
from pie_wire.errors import BadField, Gone, LimitExceeded, NotFound, ProgramError
from pie_wire.messages.common import Program, ProgramRef
from pie_wire.messages.gateway import DetachChild, EndChild, ListProcesses, Terminate
from pie_wire.messages.kvstore import SnapshotPlace


@pytest.fixture
def parent(world: World, runner: FakeRunner, client: FakeClient) -> str:
    return client.launch()


def child_of(world: World, runner: FakeRunner, parent: str, **fields: Any) -> str:
    """A child that runs."""
    pid = world.pid()
    answers = runner.child(parent, pid, **fields)
    world.run()
    assert answers[0].value().pid == pid
    return pid


def state(client: FakeClient, pid: str) -> str:
    return next(p.state for p in client.ask(ListProcesses(ended=True)).processes if p.pid == pid)


class TestLaunch:
    def test_it_runs_as_the_parents_user_and_its_end_is_told(
        self, world: World, runner: FakeRunner, client: FakeClient
    ):
        parent = client.launch()
        child = child_of(world, runner, parent, input="[7]")
        runner.emit(child, "return", '"seven"')
        world.run()

        assert runner.processes[child].start.input == "[7]"
        assert (runner.children[child].parent, runner.children[child].result) == (parent, '"seven"')
        row = next(p for p in client.ask(ListProcesses(ended=True)).processes if p.pid == child)
        assert (row.parent, row.user, row.state) == (parent, "local", "returned")

    def test_a_failure_is_told_with_its_code(self, world: World, runner: FakeRunner, parent: str):
        child = child_of(world, runner, parent)
        runner.emit(child, "error", error=ProgramError("it broke", cause="not_found"))
        world.run()

        error = runner.children[child].error
        assert error is not None
        assert (error.code, error.cause) == ("program_error", "not_found")

    def test_sent_again_it_starts_nothing_and_tells_an_end_again(self, world: World, runner: FakeRunner, parent: str):
        child = child_of(world, runner, parent)
        runner.emit(child, "return", "1")
        world.run()
        runner.children.clear()

        answers = runner.child(parent, child)
        world.run()

        assert answers[0].value().again
        assert runner.children[child].result == "1"
        assert runner.started.count(child) == 1

    def test_a_slow_runner_is_told_later(
        self, world: World, runner: FakeRunner, parent: str, monkeypatch: pytest.MonkeyPatch
    ):
        child = child_of(world, runner, parent)
        monkeypatch.setattr("pie_gateway.children.SLOW_BYTES", -1)
        runner.emit(child, "return", "1")
        world.run()
        assert child not in runner.children

        monkeypatch.undo()
        world.run()
        assert runner.children[child].result == "1"

    def test_what_does_not_exist(self, world: World, runner: FakeRunner, parent: str):
        answers = runner.child(parent, world.pid(), "helo")
        world.run()

        assert isinstance(answers[0].error, NotFound)

    def test_only_by_name(self, world: World, runner: FakeRunner, parent: str):
        answers = runner.child(parent, world.pid(), "sha256:" + "a" * 64)
        world.run()

        assert isinstance(answers[0].error, BadField)

    def test_it_may_do_no_more_than_its_parent(self, world: World, runner: FakeRunner, client: FakeClient):
        manifest = '[capabilities]\nhttp = ["*"]\nchildren = true\n'
        world.kvstore.programs.append(Program(ProgramRef("worker", "1.0.0", "python", "c" * 64), manifest))
        parent = client.launch("hello")

        child = child_of(world, runner, parent, program="worker")

        capabilities = runner.processes[child].start.capabilities
        assert capabilities.asked == Grants(http=["*"], children=True)
        assert capabilities.parent == Capabilities()

    def test_only_of_a_process_of_that_runner(self, world: World, runner: FakeRunner, parent: str):
        other = world.runner("other")

        answers = other.child(parent, world.pid())
        world.run()

        assert isinstance(answers[0].error, BadField)

    def test_not_after_the_parents_end(self, world: World, runner: FakeRunner, parent: str):
        runner.emit(parent, "return", "1")
        answers = runner.child(parent, world.pid())
        world.run()

        assert isinstance(answers[0].error, Gone)


class TestNear:
    def test_the_home_is_the_engine_of_the_snapshot(self, world: World, runner: FakeRunner, parent: str):
        world.kvstore.places["intro"] = SnapshotPlace("tiny", "engine-7")

        child = child_of(world, runner, parent, near="intro")

        assert runner.processes[child].start.near == "engine-7"

    def test_a_name_that_is_none(self, world: World, runner: FakeRunner, parent: str):
        answers = runner.child(parent, world.pid(), near="nothing")
        world.run()

        assert isinstance(answers[0].error, NotFound)
        assert "nothing" in answers[0].error.message


class TestLimits:
    def test_depth(self):
        world = World(child_depth=3)
        runner, client = world.runner(), world.client()
        pid = client.launch()
        for _ in range(3):
            pid = child_of(world, runner, pid)

        answers = runner.child(pid, world.pid())
        world.run()

        assert isinstance(answers[0].error, LimitExceeded)
        assert "child_depth = 3" in answers[0].error.message

    def test_a_fork_bomb_is_bounded_and_leaves_when_its_root_does(self):
        world = World(tree_processes=8)
        runner, client = world.runner(capacity=64), world.client()
        root = client.launch()
        errors: list[str] = []
        for _ in range(4):
            for pid in [p for p, process in runner.processes.items() if not process.ended]:
                answers = [runner.child(pid, world.pid(), detached=True) for _ in range(3)]
                world.run()
                errors += [a[0].error.message for a in answers if a[0].error]

        assert len(client.ask(ListProcesses()).processes) == 8
        assert errors
        assert all("tree_processes = 8" in message for message in errors)
        for pid in list(runner.processes):
            client.ask(Terminate(pid))
        assert isinstance(client.launch(), str)
        assert (world.core.children._of, world.core.children._trees) == ({}, {})
        assert root in runner.killed

    def test_a_failed_launch_is_not_counted(self):
        world = World(tree_processes=2)
        runner, client = world.runner(), world.client()
        parent = client.launch()
        for _ in range(4):
            runner.child(parent, world.pid(), "nothing")
            world.run()

        child_of(world, runner, parent)


class TestEnds:
    @pytest.mark.parametrize("how", ["return", "error", "kill", "runner"])
    def test_children_end_with_their_parent(self, world: World, client: FakeClient, how: str):
        first = world.runner("first")
        parent = client.launch()
        second = world.runner("second")
        child = world.pid()
        first.capacity = 0
        answers = first.child(parent, child)
        world.run()
        where = second if child in second.processes else first
        grandchild = child_of(world, where, child)
        assert answers[0].error is None

        if how == "return":
            first.emit(parent, "return", "1")
        elif how == "error":
            first.emit(parent, "error", error=ProgramError("broken"))
        elif how == "kill":
            client.ask(Terminate(parent))
        else:
            world.kill("first")
        world.run(1.0)

        assert state(client, child) == "failed"
        assert state(client, grandchild) == "failed"

    def test_a_detached_one_goes_on(self, world: World, runner: FakeRunner, client: FakeClient, parent: str):
        born = child_of(world, runner, parent, detached=True)
        later = child_of(world, runner, parent)
        runner.tell(DetachChild(parent, later))
        runner.emit(parent, "return", "1")
        world.run(1.0)

        assert [state(client, pid) for pid in (parent, born, later)] == ["returned", "running", "running"]

    def test_cancel(self, world: World, runner: FakeRunner, client: FakeClient, parent: str):
        child = child_of(world, runner, parent)
        runner.tell(EndChild(parent, child))
        world.run()

        assert state(client, child) == "failed"
        assert runner.children[child].error is not None

    def test_cancel_before_it_is_placed(self, world: World, runner: FakeRunner, client: FakeClient, parent: str):
        runner.refuse = None
        child = world.pid()
        world.core.runners.refused(next(iter(world.core.runners)))
        answers = runner.child(parent, child)
        runner.tell(EndChild(parent, child))
        world.run(2.0)

        assert answers[0].error is not None
        assert child not in runner.started

    def test_cancelling_what_never_arrived_is_answered(self, world: World, runner: FakeRunner, parent: str):
        child = world.pid()
        runner.tell(EndChild(parent, child))
        world.run()

        error = runner.children[child].error
        assert error is not None
        assert error.code == "cancelled"

    def test_nobody_ends_anothers_child(self, world: World, runner: FakeRunner, client: FakeClient, parent: str):
        child = child_of(world, runner, parent)
        stranger = client.launch()
        runner.tell(EndChild(stranger, child))
        world.run()

        assert state(client, child) == "running"

    def test_the_clients_disconnect_ends_the_family(self, world: World, runner: FakeRunner, client: FakeClient):
        parent = client.launch(on_disconnect="terminate")
        child = child_of(world, runner, parent)
        world.kill("client")
        world.run(1.0)

        assert {parent, child} <= set(runner.killed)


class TestRestart:
    def test_the_family_outlives_the_gateway(self, world: World, runner: FakeRunner, client: FakeClient, parent: str):
        child = child_of(world, runner, parent)
        world.restart_gateway()
        world.run(2.0)

        runner.emit(child, "return", "5")
        runner.child(parent, child)
        world.run()
        assert runner.children[child].result == "5"

        other = child_of(world, runner, parent)
        runner.emit(parent, "return", "1")
        world.run(1.0)
        assert other in runner.killed

    def test_a_parent_that_ended_meanwhile_takes_its_children_along(
        self, world: World, runner: FakeRunner, client: FakeClient, parent: str
    ):
        child, detached = child_of(world, runner, parent), child_of(world, runner, parent, detached=True)
        world.kill("gateway")
        runner.emit(parent, "return", "1")
        world.start_gateway()
        world.run(3.0)

        assert child in runner.killed
        assert detached not in runner.killed

    def test_a_gateway_that_died_between_parent_and_child_makes_up_for_it(
        self, world: World, runner: FakeRunner, client: FakeClient, parent: str
    ):
        child = child_of(world, runner, parent)
        runner.obeys = False
        runner.emit(parent, "return", "1")
        world.run(0.0)
        world.restart_gateway()
        runner.killed.clear()
        runner.obeys = True
        world.run(3.0)

        assert child in runner.killed

    def test_capabilities_are_remembered(self):
        world = World(policy=Policy((Rule(Grants(children=True)),)))
        manifest = "[capabilities]\nchildren = true\n"
        world.kvstore.programs.append(Program(ProgramRef("worker", "1.0.0", "python", "c" * 64), manifest))
        runner, client = world.runner(), world.client()
        parent = client.launch("worker")
        world.restart_gateway()
        world.run(2.0)

        child = child_of(world, runner, parent, program="worker")

        both = Capabilities(Grants(children=True), Grants(children=True))
        assert runner.processes[child].start.capabilities == both.of_child(both.asked, both.granted)
        assert runner.processes[child].start.program != HELLO.ref
