"""Launches: validated, executed at most once, placed by load, queued within bounds."""

from __future__ import annotations

import pytest
from gateway_world import HELLO, FakeClient, FakeRunner, World
from pie_wire.errors import (
    BadField,
    BadProgram,
    Conflict,
    Gone,
    LimitExceeded,
    NotFound,
    Overloaded,
    PieError,
    StoreUnavailable,
    Terminated,
    TooLarge,
    Unavailable,
)
from pie_wire.messages.common import MAX_INPUT_BYTES, Program, ProgramRef
from pie_wire.messages.gateway import Launch, ListProcesses, Terminate
from pie_wire.messages.kvstore import SnapshotPlace


def test_a_launch_streams_from_number_one_to_the_end(world: World, runner: FakeRunner, client: FakeClient):
    pid = client.launch("hello@0.1.0", input='{"name": "Ada"}')
    runner.emit(pid, "message", "hi")
    runner.emit(pid, "return", '"done"')
    world.run()

    assert [e.kind for e in client.events[pid]] == ["started", "message", "return"]
    assert client.seqs(pid) == [1, 2, 3]
    start = runner.processes[pid].start
    assert (start.program, start.input) == (HELLO.ref, '{"name": "Ada"}')
    assert runner.processes[pid].durable == runner.processes[pid].consumed == 3


def test_launches_wait_for_a_runner_that_is_slow_to_take_what_it_is_sent(
    world: World, runner: FakeRunner, client: FakeClient, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("pie_gateway.runners.SLOW_BYTES", -1)
    answers = client.send(Launch(world.pid(), "hello"))
    world.run(1.0)
    assert (answers, runner.started) == ([], [])

    monkeypatch.undo()
    world.run(1.0)
    assert answers[0].error is None


def test_near_a_snapshot_is_near_the_engine_that_saved_it(world: World, runner: FakeRunner, client: FakeClient):
    world.kvstore.places["intro"] = SnapshotPlace("tiny", "engine-7")

    near, anywhere = client.launch(near="intro"), client.launch()

    assert runner.processes[near].start.near == "engine-7"
    assert runner.processes[anywhere].start.near == ""
    assert client.ask(Launch(near, "hello")).again, "where it runs is not what it is"


@pytest.mark.parametrize(("near", "error"), [("nothing", NotFound), ("x" * 201, BadField), ("a\nb", BadField)])
def test_near_what_is_no_snapshot(
    world: World, runner: FakeRunner, client: FakeClient, near: str, error: type[PieError]
):
    answers = client.send(Launch(world.pid(), "hello", near=near))
    world.run()

    assert type(answers[0].error) is error
    assert runner.started == []


def test_near_without_a_store_fails_and_may_be_tried_again(world: World, runner: FakeRunner, client: FakeClient):
    client.launch()  # the program is known from now on
    world.kvstore.places["intro"] = SnapshotPlace("tiny", "engine-7")
    world.kill("kvstore")
    pid = world.pid()
    answers = client.send(Launch(pid, "hello", near="intro"))
    world.run(10.0)

    assert isinstance(answers[0].error, StoreUnavailable)
    assert client.ask(Launch(pid, "hello")).pid == pid


def test_a_launch_that_is_given_up_while_its_snapshot_is_looked_for(
    world: World, runner: FakeRunner, client: FakeClient
):
    client.launch()
    world.kvstore.hides_places = True
    pid = world.pid()
    answers = client.send(Launch(pid, "hello", near="intro"))
    world.run(0.1)
    client.ask(Terminate(pid))
    world.run(10.0)

    assert isinstance(answers[0].error, Terminated)
    assert len(runner.started) == 1


def test_the_same_launch_again_is_joined_not_repeated(world: World, runner: FakeRunner, client: FakeClient):
    pid = client.launch()

    again = client.ask(Launch(pid, "hello"))

    assert again.again
    assert runner.started == [pid]


def test_launches_repeated_at_once_start_one_process(world: World, runner: FakeRunner, client: FakeClient):
    pid = world.pid()
    answers = [client.send(Launch(pid, "hello")) for _ in range(3)]
    world.run()

    assert [a[0].value().again for a in answers] == [False, True, True]
    assert runner.started == [pid]


def test_the_same_id_with_other_content_is_a_conflict(world: World, runner: FakeRunner, client: FakeClient):
    pid = client.launch()

    with pytest.raises(Conflict):
        client.ask(Launch(pid, "hello", input="[1]"))


def test_another_user_cannot_see_or_take_the_process(world: World, runner: FakeRunner, client: FakeClient):
    pid = client.launch()

    with pytest.raises(NotFound):
        client.ask(Terminate(pid), user="mallory")
    with pytest.raises(Conflict):
        client.ask(Launch(pid, "hello"), user="mallory")
    assert client.ask(ListProcesses(), user="mallory").processes == []


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"pid": "x"}, BadField),
        ({"pid": "A" * 32}, BadField),
        ({"input": "{not json"}, BadField),
        ({"input": "NaN"}, BadField),
        ({"input": '"' + "x" * MAX_INPUT_BYTES + '"'}, TooLarge),
        ({"program": "Hello World"}, BadField),
        ({"program": "hello@latest"}, BadField),
        ({"program": "sha256:123"}, BadField),
        ({"program": "sha256:" + "0" * 64}, NotFound),
        ({"filename": "../etc/passwd"}, BadField),
        ({"filename": "a\nb"}, BadField),
        ({"input": "[" * 100_000 + "]" * 100_000}, BadField),
        ({"program": "sha256:" + "0" * 64, "manifest": "a = " + "[" * 30_000}, BadField),
    ],
)
def test_bad_launches_are_refused_and_leave_nothing(
    world: World, runner: FakeRunner, client: FakeClient, fields: dict[str, str], error: type[PieError]
):
    launch = Launch(**{"pid": world.pid(), "program": "hello", **fields})

    with pytest.raises(error):
        client.ask(launch)

    assert runner.started == []
    assert client.ask(ListProcesses(ended=True)).processes == []
    client.launch()


def test_an_unknown_program_is_answered_with_what_exists(world: World, runner: FakeRunner, client: FakeClient):
    world.kvstore.programs.append(Program(ProgramRef("hello", "0.2.0", "python", "b" * 64)))

    with pytest.raises(NotFound, match=r"did you mean hello\?"):
        client.ask(Launch(world.pid(), "helo"))
    with pytest.raises(NotFound, match=r"installed versions of hello: 0\.1\.0, 0\.2\.0"):
        client.ask(Launch(world.pid(), "hello@9.9.9"))


def test_processes_go_to_the_least_loaded_runner(world: World, client: FakeClient):
    small, large = world.runner("small", 2), world.runner("large", 4)

    for _ in range(6):
        client.launch()

    assert (len(small.started), len(large.started)) == (2, 4)


def test_a_launch_waits_for_room_and_starts_when_a_process_ends(world: World, client: FakeClient):
    runner = world.runner("small", 1)
    first = client.launch()
    second = world.pid()
    waiting = client.send(Launch(second, "hello"))
    world.run()
    assert not waiting

    runner.emit(first, "return", "null")
    world.run()

    assert waiting[0].value().pid == second
    assert runner.started == [first, second]


def test_a_launch_that_waits_too_long_is_overloaded_and_its_id_free_again(world: World, client: FakeClient):
    runner = world.runner("small", 1)
    first = client.launch()
    second = world.pid()

    with pytest.raises(Overloaded):
        client.ask(Launch(second, "hello"))

    runner.emit(first, "return", "null")
    world.run()
    client.launch(pid=second)
    assert runner.started == [first, second]


def test_without_a_runner_a_launch_waits_for_one_then_fails_retryable(world: World, client: FakeClient):
    with pytest.raises(Unavailable, match="no runner") as caught:
        client.ask(Launch(world.pid(), "hello"))
    assert caught.value.retryable


def test_the_queue_is_bounded_and_leaves_room_for_other_tenants(client: FakeClient):
    world = client.world
    world.config = type(world.config)(queue=4)
    world.restart_gateway()
    world.run()
    waiting = [client.send(Launch(world.pid(), "hello")) for _ in range(3)]
    other = client.send(Launch(world.pid(), "hello"), tenant="other")
    world.run()

    assert [bool(w) for w in waiting] == [False, False, True]
    assert isinstance(waiting[2][0].error, Overloaded)
    assert "launches of tenant local" in waiting[2][0].error.message
    assert other == []

    runner = world.runner()
    world.run()
    assert len(runner.started) == 3
    later = [client.send(Launch(world.pid(), "hello")) for _ in range(4)]
    world.run()
    assert [answer[0].error for answer in later].count(None) >= 2, "those that were placed make room"


def test_inputs_of_launches_that_wait_are_bounded(world: World, client: FakeClient, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pie_gateway.launch_room.INPUT_BYTES", 4000)
    world.restart_gateway()
    world.run()
    large = '"' + "x" * 900 + '"'
    waiting = [client.send(Launch(world.pid(), "hello", large)) for _ in range(3)]
    world.run()

    assert [bool(w) for w in waiting] == [False, False, True]
    assert "inputs of" in str(waiting[2][0].error)
    small = client.send(Launch(world.pid(), "hello"))
    with pytest.raises(NotFound):
        client.ask(Launch(world.pid(), "nothing"))
    world.run(15.0)
    assert isinstance(small[0].error, Unavailable)
    assert isinstance(waiting[0][0].error, Unavailable)

    again = [client.send(Launch(world.pid(), "hello", large)) for _ in range(2)]
    world.run()
    assert again == [[], []], "those that failed make room"


def test_a_tenant_has_so_many_processes_and_each_end_makes_room(world: World, client: FakeClient):
    world.config = type(world.config)(tenant_processes=2)
    world.restart_gateway()
    runner = world.runner()
    world.run()
    first, second, third = (world.pid() for _ in range(3))
    client.launch(pid=first)
    client.launch(pid=second)

    with pytest.raises(LimitExceeded, match="tenant_processes = 2"):
        client.ask(Launch(third, "hello"))
    assert client.launch(pid=first) == first
    runner.emit(first, "return", "null")
    world.run()
    client.launch(pid=third)
    world.restart_gateway()
    world.run()

    assert runner.started == [first, second, third]
    assert world.core is not None
    assert world.core.table.live_of("local") == 2


def test_launches_that_wait_count_for_their_tenant(world: World, client: FakeClient):
    world.config = type(world.config)(tenant_processes=1, queue_timeout=1.0)
    world.restart_gateway()
    world.run()
    waiting = client.send(Launch(world.pid(), "hello"))
    world.run()

    with pytest.raises(LimitExceeded):
        client.ask(Launch(world.pid(), "hello"))
    world.run(1.5)
    assert isinstance(waiting[0].error, Unavailable)
    world.runner()
    client.launch()


def test_a_full_runner_hands_the_process_to_another(world: World, client: FakeClient):
    full, free = world.runner("a-full"), world.runner("b-free")
    full.refuse = Overloaded("full after all")

    pid = client.launch()

    assert free.started == [pid]
    assert world.core is not None
    assert world.core.table.live_count == 1


def test_a_placed_launch_of_a_vanished_client_is_dropped_when_its_runner_is_full(world: World, runner: FakeRunner):
    first = world.client("first")
    pid = world.pid()
    runner.refuse = Overloaded("full after all")
    runner.before_refusal = lambda: world.kill("first")

    first.send(Launch(pid, "hello"))
    world.run(1.0)
    runner.refuse = None
    world.run(1.0)

    assert runner.started == []
    assert world.core is not None
    assert world.core.table.live_count == 0
    world.client("second").launch(pid=pid)


def test_a_launch_that_cannot_be_sent_is_answered_and_leaves_nothing(
    world: World, runner: FakeRunner, client: FakeClient, monkeypatch: pytest.MonkeyPatch
):
    client.launch()
    pid = world.pid()
    waiting = client.send(Launch(pid, "hello"))

    monkeypatch.setattr("pie_wire.hub.MAX_PENDING", 0)
    world.run(1.0)

    assert isinstance(waiting[0].error, Overloaded)
    monkeypatch.undo()
    client.launch(pid=pid)


def test_a_program_the_runner_refuses_fails_the_launch_and_frees_the_id(
    world: World, runner: FakeRunner, client: FakeClient
):
    runner.refuse = BadProgram("no Wasm component")
    pid = world.pid()

    with pytest.raises(BadProgram):
        client.ask(Launch(pid, "hello"))

    runner.refuse = None
    client.launch(pid=pid)


def test_a_runner_that_does_not_confirm_ends_as_process_lost(world: World, runner: FakeRunner, client: FakeClient):
    runner.silent = True

    pid = client.launch()

    assert [e.kind for e in client.events[pid]] == ["error"]
    assert client.events[pid][0].error is not None
    assert client.events[pid][0].error.code == "process_lost"
    assert pid in runner.killed


def test_a_queued_launch_can_be_terminated(world: World, client: FakeClient):
    pid = world.pid()
    waiting = client.send(Launch(pid, "hello"))
    world.run()

    client.ask(Terminate(pid))

    assert isinstance(waiting[0].error, Terminated)


def test_a_queued_launch_of_a_vanished_client_is_never_started(world: World):
    first = world.client("first")
    first.send(Launch(world.pid(), "hello"))
    world.run()
    world.kill("first")

    runner = world.runner()

    assert runner.started == []


def test_without_kvstore_known_programs_start_and_others_fail_retryable(
    world: World, runner: FakeRunner, client: FakeClient
):
    client.launch("hello")
    world.kill("kvstore")
    world.run(5.0)

    client.launch("hello")
    with pytest.raises(StoreUnavailable) as caught:
        client.ask(Launch(world.pid(), "other"))

    assert caught.value.retryable
    assert len(runner.started) == 2


def test_an_id_is_not_executed_again_after_its_events_are_gone(world: World, runner: FakeRunner, client: FakeClient):
    pid = client.launch()
    runner.emit(pid, "return", "null")
    world.run()
    world.unix += world.config.keep_ended
    world.run()

    with pytest.raises(Gone):
        client.ask(Launch(pid, "hello"))
    assert runner.started == [pid]
