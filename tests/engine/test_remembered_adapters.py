"""Adapters of an engine that starts again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pie_engine.adapters.remembered import RememberedAdapters
from pie_wire.messages import engine as wire

FOLDERS = {"/a": b"content a", "/a2": b"another a", "/b": b"content b"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "engine" / "e.json"


@pytest.fixture
def start(benches, path: Path):
    """An engine that starts, with these folders on its disk."""

    def started(model: str = "m", folders: dict[str, bytes] = FOLDERS):
        bench = benches()
        bench.device.adapters.folders |= folders
        bench.core.adapters.remember(RememberedAdapters(path, model))
        while bench.core.adapters.is_loading:
            bench.loader.turn()
        return bench

    return started


def names(bench) -> dict[str, str]:
    """Adapters in force, and their digests."""
    return {a.name: a.digest for a in bench.ask(wire.ListAdapters()).adapters if a.state == "current"}


def test_a_successor_has_what_was_loaded_in_the_version_that_was_in_force(start):
    first = start()
    for name, folder in (("a", "/a"), ("b", "/b"), ("a", "/a2"), ("gone", "/b")):
        first.ask(wire.LoadAdapter(name, folder))
    first.ask(wire.UnloadAdapter("gone"))
    before = names(first)

    second = start()

    assert set(before) == {"a", "b"}
    assert names(second) == before
    context = second.create([1, 2, 3])
    number = second.send(wire.SetAdapters(context, 0, [wire.AdapterUse("a", 1.0)]))
    second.settle()
    assert number not in second.runner.failed


def test_an_old_version_that_is_unloaded_leaves_the_new_one_remembered(start):
    first = start()
    old = first.ask(wire.LoadAdapter("a", "/a"))
    context = first.create([1, 2, 3])
    first.send(wire.SetAdapters(context, 0, [wire.AdapterUse("a", 1.0)]))
    first.ask(wire.LoadAdapter("a", "/a2"))
    first.ask(wire.UnloadAdapter(f"a@{old.digest[:12]}"))

    assert list(names(start())) == ["a"]


def test_one_that_is_not_there_keeps_nothing_from_starting_and_is_tried_again(start):
    first = start()
    first.ask(wire.LoadAdapter("a", "/a"))
    first.ask(wire.LoadAdapter("b", "/b"))

    without = start(folders={"/b": b"content b"})
    assert list(names(without)) == ["b"]
    assert set(names(start())) == {"a", "b"}

    without = start(folders={"/b": b"content b"})
    assert without.ask(wire.UnloadAdapter("a")).code == "not_found"
    assert set(names(start())) == {"b"}


def test_another_model_has_none_of_them(start):
    start().ask(wire.LoadAdapter("a", "/a"))

    assert names(start(model="other")) == {}
    assert set(names(start())) == {"a"}
    start(model="other").ask(wire.LoadAdapter("b", "/b"))
    assert names(start()) == {}


@pytest.mark.parametrize("content", [b"", b"[]", b'{"model": 1}', b"\xff"])
def test_a_damaged_file_is_replaced(start, path: Path, content: bytes):
    path.parent.mkdir()
    path.write_bytes(content)
    bench = start()

    assert names(bench) == {}
    bench.ask(wire.LoadAdapter("a", "/a"))
    assert json.loads(path.read_bytes()) == {"model": "m", "folders": {"a": "/a"}}


def test_a_disk_that_cannot_be_written_keeps_nobody_from_loading(start, path: Path):
    path.parent.write_text("a file where the folder would be")

    bench = start()
    bench.ask(wire.LoadAdapter("a", "/a"))

    assert list(names(bench)) == ["a"]
