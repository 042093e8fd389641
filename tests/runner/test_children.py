"""A program's children: launched, awaited, cancelled, detached, over the loss of the gateway too."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from pie_runner import limits
from pie_runner.process_limits import ProcessLimits
from pie_wire.capabilities import Capabilities, Grants
from pie_wire.errors import NotFound, ProgramError
from pie_wire.messages.gateway import Events, LaunchChild
from pie_wire.messages.runner import Kill
from runner_world import World

MAY = Capabilities(Grants(children=True), Grants(children=True))


def request(program: str = "worker", **fields: Any) -> SimpleNamespace:
    return SimpleNamespace(**({"program": program, "input": "[1]", "near": None, "detached": False} | fields))


async def parent(api: Any, text: str) -> str:
    child = await api.call("children", "launch", request(**json.loads(text)))
    result = await api.wait("children.child", child)
    again = await api.call("children", "[method]child.get", child)
    return json.dumps([json.loads(result), again == result])


async def waiting_for_two(api: Any, text: str) -> str:
    children = [await api.call("children", "launch", request(f"worker-{i}")) for i in range(2)]
    for child in children:
        await api.wait("children.child", child)
    return "null"


def running(world: World, main: Any, **fields: Any) -> None:
    world.start(main, capabilities=MAY, **fields)


def noted(order: list[str], handle: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def handled(incoming: Any) -> Any:
        order.append(incoming.message.verb)
        return handle(incoming)

    return handled


def test_a_launch_and_its_result(bare_world: World):
    world = bare_world
    running(world, parent, text='{"near": "intro", "detached": true}')
    world.run(lambda: bool(world.gateway.launches))
    launch = world.gateway.launches[0]
    world.gateway.child_ended(launch, '"done"')
    world.run(world.ended)

    assert (launch.parent, launch.program, launch.input, launch.near) == ("p1", "worker", "[1]", "intro")
    assert launch.detached
    assert world.log()[-1].text == '["done", true]'
    assert len(world.runner.children) == 0


@pytest.mark.parametrize("refused", [True, False])
def test_a_failure_is_the_childs_answer(bare_world: World, refused: bool):
    world = bare_world
    if refused:
        world.gateway.refuses_children = NotFound("no such program")
    running(world, parent)
    world.run(lambda: bool(world.gateway.launches))
    if not refused:
        world.gateway.child_ended(world.gateway.launches[0], error=NotFound("its own failure"))
    world.run(world.ended)

    error = world.log()[-1].error
    assert error is not None
    assert (error.code, error.cause) == ("program_error", "not_found")


def test_without_the_capability(bare_world: World):
    bare_world.start(parent)
    bare_world.run(bare_world.ended)

    error = bare_world.log()[-1].error
    assert error is not None
    assert error.cause == "forbidden"
    assert "children = true" in error.message
    assert bare_world.gateway.launches == []


def test_the_number_of_children_is_limited(model_files: dict[str, bytes]):
    world = World(model_files, ProcessLimits(children=2))

    async def bomb(api: Any, text: str) -> str:
        while True:
            await api.call("children", "launch", request())

    running(world, bomb)
    world.run(world.ended)

    error = world.log()[-1].error
    assert error is not None
    assert error.cause == "limit_exceeded"
    assert "children = 2" in error.message
    assert len(world.gateway.launches) == 2


def test_an_ended_child_makes_room(model_files: dict[str, bytes]):
    world = World(model_files, ProcessLimits(children=1))

    async def one_after_another(api: Any, text: str) -> str:
        for _ in range(5):
            child = await api.call("children", "launch", request())
            await api.wait("children.child", child)
            api.drop(child)
        return "null"

    running(world, one_after_another)
    for number in range(5):
        world.run(lambda number=number: len(world.gateway.launches) == number + 1)
        world.gateway.child_ended(world.gateway.launches[number], "null")
    world.run(world.ended)

    assert world.log()[-1].kind == "return"


def test_cancel_answers_at_once(bare_world: World):
    world = bare_world

    async def cancels(api: Any, text: str) -> str:
        child = await api.call("children", "launch", request())
        await api.call("children", "[method]child.cancel", child)
        await api.call("children", "[method]child.cancel", child)
        answer = await api.call("children", "[method]child.get", child)
        return json.dumps(answer)

    running(world, cancels)
    world.run(world.ended)

    error = world.log()[-1].error
    assert error is not None
    assert error.cause == "cancelled"
    assert world.gateway.ended == [world.gateway.launches[0].pid]


def test_detach(bare_world: World):
    world = bare_world

    async def detaches(api: Any, text: str) -> str:
        child = await api.call("children", "launch", request())
        await api.call("children", "[method]child.detach", child)
        return "null"

    running(world, detaches)
    world.run(world.ended)

    assert world.gateway.detached == [world.gateway.launches[0].pid]


def test_a_dropped_handle_ends_nothing(bare_world: World):
    world = bare_world

    async def drops(api: Any, text: str) -> str:
        api.drop(await api.call("children", "launch", request()))
        done = await api.call("clocks", "sleep", 10**9)
        await api.wait("futures.done", done)
        return "null"

    running(world, drops)
    world.run(lambda: bool(world.gateway.launches))
    world.gateway.child_ended(world.gateway.launches[0], "1")
    world.run(world.ended)

    assert world.log()[-1].kind == "return"
    assert world.gateway.ended == []


def test_a_lost_gateway_is_asked_again_under_the_same_id(bare_world: World):
    world = bare_world
    running(world, waiting_for_two)
    world.run(lambda: len(world.gateway.launches) == 2)
    first, second = world.gateway.launches
    world.gateway.child_ended(first, "1")
    world.run(0.1)

    world.restart_gateway()
    world.run(lambda: bool(world.gateway.launches))
    assert [launch.pid for launch in world.gateway.launches] == [second.pid]
    world.gateway.child_ended(second, "2")
    world.run(world.ended)

    assert world.log()[-1].kind == "return"


def test_what_was_launched_without_a_gateway_is_launched_before_the_end_is_told(bare_world: World):
    world = bare_world
    order: list[str] = []

    async def leaves(api: Any, text: str) -> str:
        done = await api.call("clocks", "sleep", 10**9)
        await api.wait("futures.done", done)
        await api.call("children", "launch", request("stays", detached=True))
        await api.call("children", "launch", request("goes"))
        return "null"

    running(world, leaves)
    world.run(lambda: bool(world.log()))
    world.wires.kill("gateway")
    world.run(2.0)
    world.restart_gateway()
    launch, take = world.gateway._launch_child, world.gateway._events
    world.gateway.hub.on(LaunchChild, noted(order, launch))
    world.gateway.hub.on(Events, noted(order, take))
    world.run(world.ended)

    assert [made.program for made in world.gateway.launches] == ["stays"]
    assert order[0] == "gw.launch-child"
    assert len(world.runner.children) == 0


@pytest.mark.parametrize("detached", [True, False])
def test_a_killed_parent_leaves_nothing_here(bare_world: World, detached: bool):
    world = bare_world
    running(world, parent, text=json.dumps({"detached": detached}))
    world.run(lambda: bool(world.gateway.launches))
    world.push(Kill("p1", "enough"))
    world.run(world.ended)
    world.gateway.child_ended(world.gateway.launches[0], error=ProgramError("it was killed too"))
    world.run(0.2)

    assert len(world.runner.children) == 0
    assert world.runner.processes == {}


def test_a_home_near_what_was_saved(world: World):
    world.add_engine("other")
    world.run(lambda: len(world.runner.engines._links) == 2)
    world.run(1.0)

    async def saves(api: Any, text: str) -> str:
        model = await api.call("model", "[static]model.load", "")
        context = await api.call("context", "[static]context.create", model)
        await api.call("context", "[method]context.append", context, [1, 2, 3])
        await api.call("context", "[method]context.save", context, "intro")
        return "null"

    for number, near in enumerate(["", "other", "engine", "other", "gone"]):
        assert world.outcome(saves, pid=f"p{number}", near=near).kind == "return"
        home = world.snapshots["local", "intro"].engine
        assert home in ("engine", "other")
        assert near not in ("engine", "other") or home == near


def test_an_end_that_is_not_ours_is_ignored(bare_world: World):
    world = bare_world
    running(world, parent)
    world.run(lambda: bool(world.gateway.launches))
    launch = world.gateway.launches[0]
    for wrong in (type(launch)("p1", "f" * 32, "x"), type(launch)("p2", launch.pid, "x")):
        world.gateway.child_ended(wrong, "1")
    world.run(0.2)

    assert not world.ended()


@pytest.mark.parametrize("keep", [True, False])
def test_results_that_a_program_keeps_are_bounded(bare_world: World, monkeypatch: pytest.MonkeyPatch, keep: bool):
    world = bare_world
    monkeypatch.setattr(limits, "MAX_RESULTS", 250)

    async def collects(api: Any, text: str) -> str:
        for _ in range(5):
            child = await api.call("children", "launch", request(input='"long"'))
            await api.wait("children.child", child)
            if not keep:
                api.drop(child)
        return "null"

    running(world, collects)
    for number in range(5):
        world.run(lambda number=number: len(world.gateway.launches) > number or world.ended())
        if not world.ended():
            world.gateway.child_ended(world.gateway.launches[number], json.dumps("x" * 98))
    world.run(world.ended)

    assert len(world.gateway.launches) == (3 if keep else 5)
    assert world.log()[-1].kind == ("error" if keep else "return")
