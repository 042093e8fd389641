"""Files as programs meet them: rights, rooms, and what is left when they end."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pie_runner.outside.file_rooms import FileRooms
from pie_runner.process_limits import ProcessLimits
from pie_runner.testing import CallError
from pie_wire.capabilities import Capabilities, Grants
from pie_wire.errors import QuotaExceeded
from pie_wire.hub import Scope
from pie_wire.messages.common import ProgramRef
from pie_wire.messages.runner import Kill
from runner_world import World

ROOMS = Grants(filesystem=["scratch", "data"])
BOTH = Capabilities(ROOMS, ROOMS)
SCRATCH = Capabilities(ROOMS, Grants(filesystem=["scratch"]))


@pytest.fixture
def world(bare_world: World, tmp_path: Path) -> World:
    bare_world.keep_files(tmp_path)
    return bare_world


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


async def try_(api: Any, function: str, *arguments: Any) -> Any:
    """The answer, or the code of the error."""
    try:
        answer = await api.call("filesystem", function, *arguments)
    except CallError as exc:
        return exc.code
    return answer.decode() if isinstance(answer, bytes) else answer


def run(
    world: World, *calls: tuple[Any, ...], pid: str = "p1", capabilities: Capabilities = BOTH, **fields: Any
) -> Any:
    async def main(api: Any, text: str) -> str:
        answers = [await try_(api, *call) for call in calls]
        shown = [[e.name for e in a] if isinstance(a, list) else getattr(a, "size", a) for a in answers]
        return json.dumps(shown)

    last = world.outcome(main, pid=pid, capabilities=capabilities, name="prog", **fields)
    assert last.kind == "return", last
    world.run(0.2)
    return json.loads(last.text)


def left(path: Path) -> list[str]:
    return sorted(str(found.relative_to(path)) for found in path.rglob("*") if found.is_file() and found.name != "lock")


def test_every_function_works(world: World):
    answers = run(
        world,
        ("make-folder", "/scratch/a/b"),
        ("write", "/scratch/a/b/f", b64(b"hello")),
        ("append", "/scratch/a/b/f", b64(b"!")),
        ("read", "/scratch/a/b/f", 1, 100),
        ("stat", "/scratch/a/b/f"),
        ("rename", "/scratch/a/b/f", "/scratch/g"),
        ("list", "/scratch"),
        ("remove", "/scratch/a", True),
        ("list", "/scratch"),
        ("list", "/"),
    )

    assert answers == [None, None, None, b64(b"ello!"), 6, None, ["a", "g"], None, ["g"], ["data", "scratch"]]


def test_rooms_are_open_as_far_as_asked_and_granted(world: World):
    calls = (("write", "/scratch/a", ""), ("write", "/data/a", ""), ("list", "/"))

    assert run(world, *calls) == [None, None, ["data", "scratch"]]
    assert run(world, *calls, pid="p2", capabilities=SCRATCH) == [None, "forbidden", ["scratch"]]
    child = SCRATCH.of_child(ROOMS, ROOMS)
    assert run(world, *calls, pid="p3", capabilities=child) == [None, "forbidden", ["scratch"]]
    assert run(world, *calls, pid="p4", capabilities=Capabilities()) == ["forbidden", "forbidden", []]


def test_bad_arguments_are_typed(world: World):
    answers = run(
        world,
        ("write", "/scratch/a", "%%%"),
        ("write", "/scratch/../a", ""),
        ("write", "/etc/passwd", ""),
        ("write", "relative", ""),
        ("rename", "/scratch/a", "/data/a"),
        ("write", "/scratch/a", "A" * (23 << 20)),
        ("read", "/scratch/none", 0, 2**64 - 1),
    )

    assert answers == ["bad_request", "forbidden", "not_found", "bad_request", "bad_request", "too_large", "not_found"]


def test_without_a_disk_files_are_unsupported(bare_world: World):
    assert run(bare_world, ("write", "/scratch/a", "")) == ["unsupported"]


def test_data_stays_and_scratch_goes_with_the_process(world: World, tmp_path: Path):
    run(world, ("write", "/data/a", b64(b"kept")), ("write", "/scratch/a", b64(b"gone")))

    assert run(world, ("read", "/data/a", 0, 9), ("read", "/scratch/a", 0, 9), pid="p2") == [b64(b"kept"), "not_found"]
    assert left(tmp_path / "scratch") == []
    assert not list((tmp_path / "scratch" / "runner-1").glob("p*"))
    [owner] = (tmp_path / "data").glob("*/*/owner.json")
    assert json.loads(owner.read_text()) == {"tenant": "local", "user": "local", "program": "prog"}


def test_data_belongs_to_a_user_and_a_program(tmp_path: Path):
    rooms = FileRooms(tmp_path, "r", lambda work, then: None)

    def folder(tenant: str = "t", user: str = "u", name: str = "n", version: str = "1.0.0") -> str:
        tree = rooms.data(Scope(tenant, user), ProgramRef(name, version, "python", "x"), ProcessLimits())
        return str(tree._folder)

    folders = {
        folder(),
        folder(tenant="t/u"),
        folder(user="../u"),
        folder(user="U"),
        folder(name="other"),
        folder(version=""),
        folder(tenant="tu", user=""),
    }
    assert len(folders) == 7
    assert folder(version="2.0.0") in folders
    assert all(Path(path).parents[1] == tmp_path / "data" for path in folders)


def test_a_user_has_files_of_so_many_programs(tmp_path: Path):
    rooms = FileRooms(tmp_path, "r", lambda work, then: None)
    mine, others, limits = Scope("t", "u"), Scope("t", "other"), ProcessLimits(data_programs=2)
    for name in ("a", "b"):
        rooms.data(mine, ProgramRef(name, "", "python", "x"), limits)

    with pytest.raises(QuotaExceeded, match="data_programs = 2"):
        rooms.data(mine, ProgramRef("c", "", "python", "x"), limits)

    rooms.data(mine, ProgramRef("a", "", "python", "x"), limits)
    rooms.data(others, ProgramRef("c", "", "python", "x"), limits)


async def never_ends(api: Any, text: str) -> str:
    await api.call("filesystem", "write", "/scratch/a", b64(b"x"))
    await api.wait("futures.done", await api.call("clocks", "sleep", 10**18))
    return "null"


async def fails(api: Any, text: str) -> str:
    await api.call("filesystem", "write", "/scratch/a", b64(b"x"))
    raise ValueError("on purpose")


@pytest.mark.parametrize("main", [never_ends, fails])
def test_scratch_is_removed_at_every_kind_of_end(world: World, tmp_path: Path, main):
    world.start(main, capabilities=BOTH)
    world.run(0.3)
    world.push(Kill("p1", "by the test"))
    world.run(world.ended)
    world.run(0.2)

    assert [path.name for path in (tmp_path / "scratch" / "runner-1").iterdir()] == ["lock"]


def test_a_kill_while_the_disk_works_leaves_nothing(world: World, tmp_path: Path):
    world.start(never_ends, capabilities=BOTH)
    world.hold_offloads = True
    world.run(0.3)
    world.push(Kill("p1", "by the test"))
    world.run(world.ended)
    world.hold_offloads = False
    world.run(0.2)

    assert [path.name for path in (tmp_path / "scratch" / "runner-1").iterdir()] == ["lock"]


def test_a_runner_that_goes_while_another_starts_is_no_obstacle(tmp_path: Path):
    leaving = tmp_path / "scratch" / "leaving"
    leaving.mkdir(parents=True)
    really = Path.is_dir

    def seen_and_then_gone(path: Path) -> bool:
        found = really(path)
        if path == leaving:
            leaving.rmdir()
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "is_dir", seen_and_then_gone)
        FileRooms(tmp_path, "next", lambda work, then: None).close()


DIES = """
import os, sys
from pathlib import Path
from pie_runner.outside.file_rooms import FileRooms
from pie_runner.process_limits import ProcessLimits
rooms = FileRooms(Path(sys.argv[1]), "dead", lambda work, then: None)
rooms.scratch("p1", ProcessLimits()).write(["a"], b"left behind")
os.kill(os.getpid(), 9)
"""


def test_what_a_killed_runner_left_goes_when_the_next_one_starts(tmp_path: Path):
    living = FileRooms(tmp_path, "living", lambda work, then: None)
    living.scratch("p1", ProcessLimits()).write(["a"], b"in use")
    died = subprocess.run([sys.executable, "-c", DIES, str(tmp_path)], env=os.environ)
    assert died.returncode == -9
    assert left(tmp_path / "scratch" / "dead") == ["p1/files/a"]

    next_one = FileRooms(tmp_path, "next", lambda work, then: None)

    assert sorted(path.name for path in (tmp_path / "scratch").iterdir()) == ["living", "lock", "next"]
    assert living.scratch("p1", ProcessLimits()).read(["a"], 0, 9) == b"in use"
    living.close()
    next_one.close()
    assert [path.name for path in (tmp_path / "scratch").iterdir()] == ["lock"]
