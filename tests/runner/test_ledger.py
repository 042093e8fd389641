"""The count of what lies in a folder: as a walk would find it, without the walk; too high at worst."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pie_runner.outside import ledger as ledgers
from pie_runner.outside import tree as trees
from pie_runner.outside.ledger import Count, Ledger
from pie_runner.outside.tree import Tree, TreeLimits, _usage
from pie_wire.errors import PieError, QuotaExceeded, Unavailable

LIMITS = TreeLimits("data_bytes", 10_000, 100, 5_000)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path / "tree", LIMITS, durable=False)


@contextmanager
def opened(folder: Path) -> Iterator[Ledger]:
    """The ledger of a tree's folder."""
    fd = os.open(folder / "lock", os.O_RDWR)
    try:
        yield Ledger(fd, lambda: _usage(str(folder / "files")))
    finally:
        os.close(fd)


def counted(folder: Path) -> tuple[int, int]:
    with opened(folder) as ledger:
        count = ledger._count
    assert count is not None
    return count.bytes, count.entries


@pytest.fixture
def walks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Folders that were counted."""
    seen: list[str] = []

    def counting(folder: str, within: int | None = None) -> tuple[int, int]:
        seen.append(Path(folder).name)
        return _usage(folder, within)

    monkeypatch.setattr(trees, "_usage", counting)
    return seen


def test_writes_do_not_walk_what_is_there_already(tmp_path: Path, tree: Tree, walks: list[str]):
    for number in range(20):
        tree.write([f"f{number}"], b"12345")
        tree.append([f"f{number}"], b"6")
        Tree(tmp_path / "tree", LIMITS, durable=False).append(["log"], b"x")

    assert walks == ["files"], "once, by the first"
    assert counted(tmp_path / "tree") == (20 * 6 + 20, 21)


NAMES = st.sampled_from(["a", "b", "c"])
PATHS = st.lists(NAMES, min_size=1, max_size=3)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["write", "append"]), PATHS, st.integers(0, 700)),
        st.tuples(st.sampled_from(["make_folder", "remove", "purge"]), PATHS, st.just(0)),
        st.tuples(st.just("rename"), PATHS, PATHS),
    ),
    max_size=30,
)


@settings(max_examples=80, deadline=None)
@given(STEPS)
def test_it_is_what_a_walk_would_find(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, list[str], object]]
):
    folder = tmp_path_factory.mktemp("tree") / "tree"
    tree = Tree(folder, TreeLimits("data_bytes", 2_000, 8, 1_000), durable=False)
    tree.write(["a"], b"first")
    for what, path, more in steps:
        before = counted(folder)
        failed = False
        try:
            if isinstance(more, list):
                tree.rename(path, more)
            elif what in ("write", "append"):
                assert isinstance(more, int)
                getattr(tree, what)(path, bytes(more))
            elif what == "make_folder":
                tree.make_folder(path)
            else:
                tree.remove(path, recursive=what == "purge")
        except PieError:
            failed = True
        found, truth = counted(folder), _usage(str(folder / "files"))
        if failed:
            assert found[0] >= truth[0]
            assert found[1] >= truth[1]
            assert truth[0] <= before[0]
            with opened(folder) as ledger:
                ledger.count(0.0)
        else:
            assert found == truth, (what, path, more)
        assert truth[0] <= 2_000
        assert truth[1] <= 8


def test_a_change_that_was_cut_off_leaves_it_too_high_until_it_would_refuse(
    tmp_path: Path, tree: Tree, monkeypatch: pytest.MonkeyPatch
):
    tree.write(["a"], bytes(1000))
    with opened(tmp_path / "tree") as ledger, pytest.raises(KeyboardInterrupt), ledger.change(8000, 1):
        raise KeyboardInterrupt

    assert counted(tmp_path / "tree") == (9000, 2)
    with pytest.raises(QuotaExceeded):
        tree.write(["b"], bytes(2000))  # it was counted a moment ago
    monkeypatch.setattr(trees, "REFUSAL_SECONDS", 0.0)
    tree.write(["b"], bytes(2000))
    assert counted(tmp_path / "tree") == (3000, 2)


def test_refusals_do_not_count_each_time(tree: Tree, walks: list[str]):
    tree.write(["a"], bytes(5000))
    tree.write(["c"], b"x")
    for _ in range(5):
        with pytest.raises(QuotaExceeded):
            tree.write(["b"], bytes(5000))
    assert walks == ["files"]


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"{torn",
        b"\xff" * 40,
        b'{"bytes": 1, "entries": 1, "at": 0.0, "boot": "' + ledgers._boot().encode() + b'"}',
        b'{"bytes": 1, "entries": 1, "at": 9e12, "boot": "' + ledgers._boot().encode() + b'"}',
    ],
)
def test_what_is_no_count_of_now_is_counted_anew(tmp_path: Path, tree: Tree, record: bytes):
    tree.write(["a"], b"12345")
    (tmp_path / "tree" / "lock").write_bytes(record)
    tree.write(["b"], b"678")

    assert counted(tmp_path / "tree") == (8, 2)


def test_after_a_start_of_the_machine_it_is_counted_anew(tmp_path: Path, tree: Tree, monkeypatch: pytest.MonkeyPatch):
    tree.write(["a"], b"12345")
    with opened(tmp_path / "tree") as ledger:
        ledger._write(Count(1, 1, time.time(), "another"))
    tree.write(["b"], b"678")

    assert counted(tmp_path / "tree") == (8, 2)


def test_a_change_whose_turn_does_not_come_is_told_so(tmp_path: Path, tree: Tree, monkeypatch: pytest.MonkeyPatch):
    tree.write(["a"], b"old")
    monkeypatch.setattr(trees, "LOCK_SECONDS", 0.2)
    with (tmp_path / "tree" / "lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # as a runner does whose disk hangs
        began = time.monotonic()
        for call in (
            lambda: tree.write(["a"], b"new"),
            lambda: tree.remove(["a"], recursive=False),
            lambda: Tree(tmp_path / "tree", LIMITS, durable=True).append(["a"], b"new"),
        ):
            with pytest.raises(Unavailable, match="try again"):
                call()
        assert time.monotonic() - began < 2.0
        assert tree.read(["a"], 0, 9) == b"old", "reading waits for nobody"
    tree.write(["a"], b"new")


def test_one_of_the_same_process_waits_as_long_and_no_longer(tree: Tree, monkeypatch: pytest.MonkeyPatch):
    tree.write(["a"], b"old")
    monkeypatch.setattr(trees, "LOCK_SECONDS", 0.2)
    inside, leave = threading.Event(), threading.Event()
    real = os.rename

    def slow(*args: object, **more: object) -> None:
        inside.set()
        leave.wait(5)
        real(*args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "rename", slow)
    writer = threading.Thread(target=tree.write, args=(["a"], b"new"))
    writer.start()
    assert inside.wait(5)
    with pytest.raises(Unavailable, match="try again"):
        tree.append(["a"], b"!")
    leave.set()
    writer.join()
    assert tree.read(["a"], 0, 9) == b"new"
