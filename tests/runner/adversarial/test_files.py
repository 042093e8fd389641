"""Programs that try to leave their rooms: by `..`, by odd paths, and by links that somebody else has put there. What is
outside is not read, written, listed, moved or removed."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from attacks import Attack
from pie_runner.outside.file_rooms import _plain  # pyright: ignore[reportPrivateUsage]
from pie_wire.capabilities import Capabilities, Grants
from pie_wire.messages.runner import Deliver

SECRET = "what nobody may see"
ROOMS = Grants(filesystem=["scratch", "data"])
RIGHTS = Capabilities(ROOMS, ROOMS)
ONLY_SCRATCH = Capabilities(ROOMS, Grants(filesystem=["scratch"]))

SOURCE = b"""
import json
from inferlet import PieError, files, session

CALLS = {
    "read": lambda path: files.read_text(path),
    "write": lambda path: files.write(path, "harm"),
    "append": lambda path: files.append(path, "harm"),
    "stat": lambda path: files.stat(path).size,
    "list": lambda path: [entry.name for entry in files.list(path)],
    "make-folder": lambda path: files.make_folder(path),
    "remove": lambda path: files.remove(path),
    "remove all": lambda path: files.remove(path, recursive=True),
    "rename from": lambda path: files.rename(path, room_of(path) + "/mine/moved"),
    "rename to": lambda path: files.rename(room_of(path) + "/mine/own", path),
}

def room_of(path):
    return "/data" if path.startswith("/data/") else "/scratch"

def end(call, path):
    try:
        return CALLS[call](path)
    except PieError as exc:
        return exc.code

async def main(rooms):
    for room in rooms:
        files.make_folder(f"/{room}/mine/inner")
        files.write(f"/{room}/mine/own", "mine")
    session.send("ready")
    while True:
        asked = json.loads(await session.receive())
        session.send(json.dumps([end(call, path) for call, path in asked]))
"""
CALLS = ["read", "write", "append", "stat", "list", "make-folder", "remove", "remove all", "rename from", "rename to"]

OUTSIDE = [
    "/scratch/..", "/scratch/../..", "/scratch/../scratch/mine/own", "/scratch/mine/..", "/scratch/mine/../../x",
    "/scratch/mine/inner/../../../../../etc/passwd", "/..", "/../etc/passwd", "/scratch/./../x", "/scratch//..//x",
    "/data/../scratch/mine/own", "/scratch/mine/own/..", "/scratch/none/../../x",
]  # fmt: skip
"""Forbidden, whatever is called."""
NOWHERE = [
    "/", "", ".", "..", "../x", "scratch", "scratch/mine/own", "./scratch/mine/own", "~", "~/x", "/etc/passwd", "/etc",
    "/proc/self/environ", "/proc/self/root/etc/passwd", "/dev/null", "/tmp", "/Scratch/mine/own", "/scratchy/x",
    "/scratch\\mine\\own", "\\scratch\\mine\\own", "C:\\x", "file:///etc/passwd", "//etc/passwd", "/./etc/passwd",
    "/scratch\0/mine/own", "/scratch/\0", "/scratch/mine/own\0", "/scratch/mine/own\0/../x", "/scratch/a\0b/c",
    "/scratch/" + "n" * 256, "/scratch/" + "n" * 100_000, "/scratch/" + "\u00fc" * 128, "/scratch" + "/d" * 65,
    "/scratch" + "/d" * 2000, "/" + "d/" * 2000, "\ud7ff", "/scratch/mine/own/x",
]  # fmt: skip
"""No place that there is, or no path."""


def launched(attack: Attack, rights: Capabilities = RIGHTS, tenant: str = "local") -> str:
    """A program that has made its files, and waits to be asked."""
    attack.allow(cpu_seconds=60.0)
    rooms = rights.granted.filesystem
    pid = attack.launch(SOURCE, json.dumps({"rooms": rooms}), "python", tenant, capabilities=rights)
    attack.world.run(lambda: attack.said(pid, "ready") or attack.world.ended(pid))
    assert not attack.world.ended(pid), attack.world.log(pid)[-1]
    return pid


def ends(attack: Attack, pid: str, asked: list[tuple[str, str]]) -> list[Any]:
    """What each call of a path gives it."""
    log = attack.world.log
    before = len(log(pid))
    attack.world.deliver(Deliver(pid, text=json.dumps(asked)))
    attack.world.run(lambda: len(log(pid)) > before)
    assert log(pid)[-1].kind == "message", log(pid)[-1]
    return json.loads(log(pid)[-1].text)


def picture(folder: Path) -> dict[str, object]:
    """All that lies in a folder, and its content. That somebody holds a lock is none."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        if path.name != "lock" and not path.is_fifo():
            content = str(path.readlink()) if path.is_symlink() else path.read_bytes() if path.is_file() else None
            found[str(path.relative_to(folder))] = content
    return found


def seen_as(tmp_path: Path, room: str, pid: str, tenant: str = "local") -> Path:
    """The folder that a program sees as that room."""
    if room == "scratch":
        [found] = (tmp_path / "scratch").glob(f"*/{_plain(pid)}")
    else:
        [owner] = [at for at in (tmp_path / "data").rglob("owner.json") if f'"tenant":"{tenant}"' in at.read_text()]
        found = owner.parent
    return found / "files"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder with a secret, beside the rooms."""
    made = tmp_path / "outside"
    (made / "folder").mkdir(parents=True)
    (made / "secret").write_text(SECRET)
    (made / "folder" / "secret").write_text(SECRET)
    return made


@pytest.mark.parametrize(("paths", "codes"), [(OUTSIDE, ["forbidden"]), (NOWHERE, ["bad_request", "not_found"])])
def test_no_path_leaves_a_room(attack: Attack, tmp_path: Path, paths: list[str], codes: list[str]):
    pid = launched(attack)
    before = picture(tmp_path)
    asked = [(call, path) for call in CALLS for path in paths]

    found = ends(attack, pid, asked)

    odd = [(*what, end) for what, end in zip(asked, found, strict=True) if end not in codes]
    assert odd == ([] if paths is OUTSIDE else [("list", "/", ["data", "scratch"])])
    assert picture(tmp_path) == before
    attack.kill(pid)


@pytest.mark.parametrize("room", ["scratch", "data"])
def test_links_lead_nowhere(attack: Attack, tmp_path: Path, outside: Path, room: str):
    """To what lies outside, to a room of another tenant, to nothing, and round in a circle."""
    victim, pid = launched(attack, tenant="other"), launched(attack)
    theirs, mine = seen_as(tmp_path, room, victim, "other"), seen_as(tmp_path, room, pid) / "mine"
    links = {
        "file": outside / "secret", "folder": outside / "folder", "up": Path("../../.."), "root": Path("/"),
        "theirs": theirs, "their-file": theirs / "mine" / "own", "new": outside / "new", "loop": Path("loop"),
        "here": Path("own"),
    }  # fmt: skip
    below = ["folder/secret", "folder/new", "up/outside/secret", "root/etc/passwd", "theirs/mine/own", "loop/x"]
    paths = [f"/{room}/mine/{name}" for name in [*links, *below]]
    before = picture(outside), picture(theirs)
    texts: list[str] = []

    for call in CALLS:
        for path in paths:
            for name, target in links.items():
                (mine / name).unlink(missing_ok=True)
                (mine / name).symlink_to(target)
            (mine / "own").write_text("mine")
            [end] = ends(attack, pid, [(call, path)])
            texts.append(str(end))
            if call in ("read", "append", "list", "make-folder") or path.rpartition("/mine/")[2] in below:
                assert end in ("forbidden", "bad_request"), (call, path, end)

    assert (picture(outside), picture(theirs)) == before
    assert not any(SECRET in text or "secret" in text for text in texts)
    attack.kill(pid)
    attack.kill(victim)
    attack.world.run(0.2)
    assert picture(outside) == before[0]


@pytest.mark.parametrize("room", ["scratch", "data"])
def test_a_file_with_a_name_outside_is_not_touched(attack: Attack, tmp_path: Path, outside: Path, room: str):
    """A hard link is a file like any other, but what is read or added to would be somebody else's."""
    pid = launched(attack)
    mine, before = seen_as(tmp_path, room, pid) / "mine", picture(outside)

    for call in CALLS:
        (mine / "own").write_text("mine")
        (mine / "linked").unlink(missing_ok=True)
        os.link(outside / "secret", mine / "linked")
        [end] = ends(attack, pid, [(call, f"/{room}/mine/linked")])
        assert SECRET not in str(end)
        if call in ("read", "append"):
            assert end == "forbidden"
        assert picture(outside) == before

    os.link(outside / "secret", mine / "inner" / "linked")
    assert ends(attack, pid, [("remove all", f"/{room}/mine")]) == [None]
    attack.kill(pid)
    attack.world.run(0.2)
    assert picture(outside) == before


def test_a_pipe_holds_nobody_up(attack: Attack, tmp_path: Path):
    pid = launched(attack)
    os.mkfifo(seen_as(tmp_path, "data", pid) / "mine" / "pipe")

    found = ends(attack, pid, [(call, "/data/mine/pipe") for call in ("read", "write", "append", "list", "remove")])

    assert found == [*["bad_request"] * 4, None]
    attack.kill(pid)


def test_a_folder_that_becomes_a_link_at_any_moment(attack: Attack, tmp_path: Path, outside: Path):
    pid = launched(attack)
    mine = seen_as(tmp_path, "data", pid) / "mine"
    (mine / "link").symlink_to(outside / "folder")
    over = threading.Event()

    def swap() -> None:
        names = [mine / "inner", mine / "aside", mine / "link"]
        while not over.is_set():
            for names_now in (names, [names[2], names[1], names[0]]):
                names_now[0].rename(names_now[1])
                names_now[2].rename(mine / "inner" if names_now is names else mine / "link")
                names_now[1].rename(mine / "link" if names_now is names else mine / "inner")

    before = picture(outside)
    swapping = threading.Thread(target=swap)
    swapping.start()
    try:
        calls = [(call, "/data/mine/inner/secret") for call in ("write", "append", "read", "remove")] * 100
        found: set[str] = set()
        for _ in range(20):
            found |= {str(end).replace("harm", "") for end in ends(attack, pid, calls)}
            if {"forbidden", "None"} <= found:
                break
    finally:
        over.set()
        swapping.join()

    assert picture(outside) == before
    assert {"forbidden", "None"} <= found <= {"forbidden", "None", "not_found", "bad_request", ""}
    attack.kill(pid)


def test_rooms_of_others_are_no_part_of_ones_own(attack: Attack, tmp_path: Path):
    """Whatever is known of where they lie."""
    victim, pid = launched(attack, tenant="other"), launched(attack)
    same = launched(attack, ONLY_SCRATCH)
    places = [seen_as(tmp_path, room, victim, "other") for room in ("scratch", "data")]
    places.append(seen_as(tmp_path, "scratch", same))
    ids = [part for place in places for part in place.parts[-3:]]
    guessed = [f"{start}/{i}{end}" for start in ("/scratch", "/data") for i in ids for end in ("", "/mine/own")]
    guessed += [f"/scratch/..{place}/mine/own" for place in places] + [f"{place}/mine/own" for place in places]
    calls = [call for call in CALLS if call not in ("write", "append", "make-folder", "rename to")]
    before = [picture(place) for place in places]

    found = ends(attack, pid, [(call, path) for call in calls for path in guessed])

    assert set(found) <= {"not_found", "forbidden"}
    assert ends(attack, pid, [("list", "/scratch"), ("list", "/data")]) == [["mine"], ["mine"]]
    assert ends(attack, same, [("list", "/"), ("list", "/data"), ("read", "/data/mine/own")]) == [
        ["scratch"], "forbidden", "forbidden",
    ]  # fmt: skip
    for other in (pid, same):
        attack.kill(other)
    attack.world.run(0.2)
    assert [picture(place) for place in places[:2]] == before[:2]
    assert not places[2].exists()
    attack.kill(victim)
