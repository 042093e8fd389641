"""What is kept of source, and when it is compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import pytest
from pie_runner.code_objects import MAX_CODE, MAX_COMPILING, MAX_KEPT, MAX_KNOWN, MAX_SOURCE, CodeObjects
from pie_runner.wasm.driver import Driver
from pie_runner.wasm.fiber import Fiber, Outcome
from pie_runner.wasm.program import Program
from pie_wire.errors import Overloaded, PieError, ProgramError

FIBER = cast("Fiber", object())
PYTHON, OTHER = cast("Program", "python"), cast("Program", "another")


class FakeDriver:
    """Takes fibers and runs none."""

    def __init__(self) -> None:
        self.spawned: list[tuple[str, Callable[[Fiber, Outcome], None]]] = []

    def pays(self, data: object) -> bool:
        return data == "pays"

    def spawn(self, program: Program, text: str, *, on_exit: Callable[[Fiber, Outcome], None], **_: object) -> Fiber:
        self.spawned.append((text, on_exit))
        return FIBER


class World:
    def __init__(self) -> None:
        self.driver = FakeDriver()
        self.codes = CodeObjects(cast("Driver", self.driver), 1 << 20)

    def launch(
        self, name: str = "a", source: str = "pass", program: Program = PYTHON, tenant: str = "", data: object = None
    ) -> str:
        code = self.codes.find((name, "main.py"), source, program, tenant or name, data)
        self.codes.compile_wanted()
        return code

    def answer(self, outcome: Outcome) -> None:
        self.driver.spawned.pop(0)[1](FIBER, outcome)


@pytest.fixture
def world() -> World:
    return World()


def test_the_second_launch_lets_it_be_compiled_for_the_third(world: World):
    assert world.launch() == "null"
    assert world.driver.spawned == []
    assert world.launch() == "null"
    assert world.launch() == "null", "it is being compiled"
    assert [text for text, _ in world.driver.spawned] == ['{"compile":"pass","filename":"main.py"}']

    world.answer('"QUJD"')

    assert world.launch() == '"QUJD"'
    assert world.driver.spawned == []


@pytest.mark.parametrize(
    "outcome", ["null", ProgramError("it trapped"), '"a","x":"b"', '"' + "A" * MAX_CODE + '"', "[]"]
)
def test_what_is_no_code_is_not_asked_for_again(world: World, outcome: str | PieError):
    world.launch()
    world.launch()
    world.answer(outcome)

    assert [world.launch() for _ in range(3)] == ["null"] * 3
    assert world.driver.spawned == []


def test_where_there_was_no_room_it_is_asked_for_again(world: World):
    world.launch()
    world.launch()
    world.answer(Overloaded("there is no room"))

    world.launch()
    world.answer('"QUJD"')

    assert world.launch() == '"QUJD"'


def test_few_are_compiled_at_a_time_and_the_others_later(world: World):
    names = [str(number) for number in range(MAX_COMPILING + 1)]
    for name in names * 2:
        world.launch(name)
    assert len(world.driver.spawned) == MAX_COMPILING

    world.answer('"QUJD"')
    world.launch(names[-1])

    assert len(world.driver.spawned) == MAX_COMPILING


def test_a_tenant_with_many_leaves_a_place_to_another(world: World):
    for name in ("a", "b") * 2:
        world.launch(name, tenant="hog")
    assert len(world.driver.spawned) == 1

    world.launch("b", tenant="other")

    assert len(world.driver.spawned) == 2


def test_for_a_tenant_that_pays_nothing_is_compiled(world: World):
    for _ in range(3):
        assert world.launch(data="pays") == "null"
    assert world.driver.spawned == []

    world.launch(data="pays no more")

    assert len(world.driver.spawned) == 1


def test_long_source_is_left_to_its_launches(world: World):
    for _ in range(3):
        assert world.launch(source="#" * (MAX_SOURCE + 1)) == "null"
    assert world.driver.spawned == []


def test_the_least_recently_launched_are_forgotten(world: World):
    for name in ("old", "kept") * 2:
        world.launch(name)
    world.answer('"QUJD"')
    world.answer('"QUJD"')
    for number in range(MAX_KNOWN - 1):
        world.launch(str(number))
        world.launch("kept")

    assert world.launch("kept") == '"QUJD"'
    assert world.launch("old") == "null"


def test_what_is_kept_is_bounded_in_bytes(world: World):
    code = '"' + "A" * (MAX_CODE - 2) + '"'
    names = [str(number) for number in range(MAX_KEPT // MAX_CODE + 2)]
    for name in names:
        world.launch(name)
        world.launch(name)
        world.answer(code)

    assert [world.launch(name) == code for name in names] == [False] * 2 + [True] * (len(names) - 2)


def test_another_python_gets_none_of_the_code(world: World):
    world.launch()
    world.launch()

    assert world.launch(program=OTHER) == "null"
    world.answer('"QUJD"')
    assert world.launch(program=OTHER) == "null"
