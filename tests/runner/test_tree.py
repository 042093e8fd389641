"""Folders that programs fill: nothing leads out of them, nothing is half written, and their limits hold."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pie_runner.outside.file_paths import FilePath
from pie_runner.outside.tree import MAX_DEPTH, Tree, TreeLimits
from pie_wire.errors import (
    BadRequest,
    Closed,
    Conflict,
    Forbidden,
    LimitExceeded,
    NotFound,
    PieError,
    QuotaExceeded,
)

LIMITS = TreeLimits("scratch_bytes", 1000, 20, 600)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path / "tree", LIMITS, durable=True)


def test_what_was_written_is_read(tree: Tree):
    tree.write(["a"], b"hello")
    tree.append(["a"], b" world")
    tree.append(["b"], b"new")

    assert tree.read(["a"], 0, 100) == b"hello world"
    assert tree.read(["a"], 6, 3) == b"wor"
    assert tree.read(["a"], 2**63, 3) == b""
    assert tree.read(["b"], 0, 10) == b"new"
    tree.write(["a"], b"")
    assert tree.read(["a"], 0, 10) == b""


def test_folders_are_listed_by_name_moved_and_removed(tree: Tree):
    tree.make_folder(["x", "y"])
    tree.make_folder(["x", "y"])
    tree.write(["x", "y", "f"], b"1")
    tree.write(["x", "a"], b"22")

    assert [(e.name, e.kind, e.size) for e in tree.list(["x"], 10)] == [("a", "file", 2), ("y", "folder", 0)]
    assert len(tree.list(["x"], 1)) == 1
    tree.rename(["x", "y"], ["z"])
    assert tree.stat(["z", "f"]).size == 1
    assert abs(tree.stat(["z", "f"]).modified / 1e9 - (tree.stat([]).modified / 1e9)) < 60
    with pytest.raises(Conflict):
        tree.remove(["z"], recursive=False)
    tree.remove(["z"], recursive=True)
    tree.remove(["x", "a"], recursive=False)
    tree.remove(["x"], recursive=False)
    assert tree.list([], 10) == []


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda t: t.read(["none"], 0, 1), NotFound),
        (lambda t: t.read(["none", "x"], 0, 1), NotFound),
        (lambda t: t.read(["file", "x"], 0, 1), BadRequest),
        (lambda t: t.read(["folder"], 0, 1), BadRequest),
        (lambda t: t.read([], 0, 1), BadRequest),
        (lambda t: t.read(["fifo"], 0, 1), BadRequest),
        (lambda t: t.write(["none", "x"], b""), NotFound),
        (lambda t: t.write(["folder"], b""), BadRequest),
        (lambda t: t.append(["folder"], b""), BadRequest),
        (lambda t: t.append(["fifo"], b""), BadRequest),
        (lambda t: t.list(["none"], 9), NotFound),
        (lambda t: t.list(["file"], 9), BadRequest),
        (lambda t: t.stat(["none"]), NotFound),
        (lambda t: t.make_folder(["file"]), BadRequest),
        (lambda t: t.make_folder(["file", "x"]), BadRequest),
        (lambda t: t.remove(["none"], recursive=True), NotFound),
        (lambda t: t.remove([], recursive=True), BadRequest),
        (lambda t: t.rename(["none"], ["x"]), NotFound),
        (lambda t: t.rename(["folder"], ["folder", "in"]), BadRequest),
        (lambda t: t.rename(["file"], ["folder"]), BadRequest),
        (lambda t: t.write(["x" * 300], b""), BadRequest),
    ],
)
def test_what_cannot_be_done_is_a_typed_error_and_changes_nothing(tree: Tree, tmp_path: Path, call, error):
    tree.write(["file"], b"x")
    tree.make_folder(["folder", "full"])
    os.mkfifo(tmp_path / "tree" / "files" / "fifo")

    with pytest.raises(error):
        call(tree)
    assert [e.name for e in tree.list([], 10)] == ["fifo", "file", "folder"]
    assert not list((tmp_path / "tree" / "new").iterdir())


def test_what_a_killed_writer_left_goes_with_the_next_write(tree: Tree, tmp_path: Path):
    tree.write(["a"], b"x")
    (tmp_path / "tree" / "new" / "0123456789abcdef").write_bytes(b"half")
    tree.write(["b"], b"y")

    assert not list((tmp_path / "tree" / "new").iterdir())
    assert [e.name for e in tree.list([], 10)] == ["a", "b"]


def test_an_unwritten_tree_is_empty(tree: Tree):
    assert tree.list([], 10) == []
    assert tree.stat([]).kind == "folder"


def test_limits_are_named_and_hold(tree: Tree):
    with pytest.raises(LimitExceeded, match="file_bytes = 600"):
        tree.write(["a"], bytes(601))
    tree.write(["a"], bytes(600))
    with pytest.raises(LimitExceeded, match="file_bytes"):
        tree.append(["a"], b"x")
    with pytest.raises(QuotaExceeded, match="scratch_bytes = 1000"):
        tree.write(["b"], bytes(401))
    tree.write(["b"], bytes(400))
    tree.write(["b"], bytes(399))
    tree.append(["b"], b"x")
    with pytest.raises(QuotaExceeded):
        tree.append(["b"], b"x")
    tree.remove(["a"], recursive=False)
    tree.write(["c"], bytes(600))
    for i in range(18):
        tree.write([f"e{i}"], b"")
    with pytest.raises(QuotaExceeded, match="file_entries = 20"):
        tree.write(["more"], b"")
    with pytest.raises(QuotaExceeded, match="file_entries"):
        tree.make_folder(["more"])
    tree.write(["c"], b"")


def test_folders_cannot_be_nested_deeper_by_moving_them(tmp_path: Path):
    tree = Tree(tmp_path / "tree", TreeLimits("x", 10, 10_000, 10), durable=False)
    deep = [str(i) for i in range(MAX_DEPTH - 4)]
    tree.make_folder(["a", *deep])
    tree.make_folder(["b", *deep])

    with pytest.raises(BadRequest, match="deep"):
        tree.rename(["b"], ["a", "0", "1", "2", "3", "b"])
    tree.rename(["b"], ["a", "b"])


def test_two_that_share_a_folder_share_its_quota_and_lose_nothing(tmp_path: Path):
    """As two runners on one disk do."""
    limits = TreeLimits("data_bytes", 2000, 1000, 5000)
    trees = [Tree(tmp_path / "tree", limits, durable=False) for _ in range(4)]
    refused = []

    def work(tree: Tree) -> None:
        for _ in range(100):
            try:
                tree.append(["log"], b"0123456789")
            except QuotaExceeded:
                refused.append(1)

    threads = [threading.Thread(target=work, args=(tree,)) for tree in trees]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert trees[0].stat(["log"]).size == 2000
    assert len(refused) == 200


def test_a_write_that_fails_leaves_the_old_file(tree: Tree, tmp_path: Path, monkeypatch):
    tree.write(["a"], b"old")
    real, calls = os.write, []

    def failing(fd, data):
        calls.append(1)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return real(fd, data[:2])

    monkeypatch.setattr(os, "write", failing)
    with pytest.raises(QuotaExceeded, match="disk"):
        tree.write(["a"], b"newer")
    calls.clear()
    with pytest.raises(QuotaExceeded, match="disk"):
        tree.append(["a"], b"more")
    monkeypatch.undo()

    assert tree.read(["a"], 0, 10) == b"old"
    assert not list((tmp_path / "tree" / "new").iterdir())


def test_nothing_comes_back_after_destruction(tree: Tree, tmp_path: Path):
    tree.make_folder(["a", "b"])
    tree.destroy()

    assert not (tmp_path / "tree").exists()
    for call in (lambda: tree.write(["a"], b""), lambda: tree.list([], 1), lambda: tree.stat([])):
        with pytest.raises((Closed, NotFound)):
            call()
    assert not (tmp_path / "tree").exists()


NAMES = st.sampled_from(
    [
        "..",
        ".",
        "",
        "a",
        "b",
        "out",
        "deep",
        "secret",
        "etc",
        "passwd",
        "a\0b",
        "..\0",
        "…",
        "link/..",
        "../..",
        "x" * 256,
    ]
)
STARTS = st.sampled_from(["/scratch/", "/data/", "/", "", "//", "/../"])
PATHS = st.builds(lambda start, parts: start + "/".join(parts), STARTS, st.lists(NAMES, max_size=6))
ALLOWED = {"forbidden", "bad_request", "not_found", "conflict", "quota_exceeded"}
STEPS = st.lists(
    st.tuples(st.sampled_from(["read", "write", "append", "stat", "list", "make", "remove", "rename"]), PATHS, PATHS),
    max_size=25,
)


@settings(max_examples=150)
@given(steps=STEPS)
def test_no_path_leads_out(tmp_path_factory: pytest.TempPathFactory, steps):
    """Links of the operator's making lie in the folder: to a file outside, to a folder outside, and above."""
    home = tmp_path_factory.mktemp("tree")
    outside = home / "outside"
    (outside / "deep").mkdir(parents=True)
    (outside / "secret").write_bytes(b"SECRET")
    tree = Tree(home / "tree", TreeLimits("x", 10_000, 100, 5_000), durable=False)
    tree.make_folder(["a"])
    files = home / "tree" / "files"
    (files / "out").symlink_to(outside)
    (files / "secret").symlink_to(outside / "secret")
    (files / "deep").symlink_to("../..")
    (files / "a" / "b").symlink_to(outside / "new")

    for action, first, second in steps:
        try:
            path = FilePath.parse(first)
            assert ".." not in path.parts
            match action:
                case "read":
                    assert b"SECRET" not in tree.read(path.parts, 0, 100)
                case "write":
                    tree.write(path.parts, b"mine")
                case "append":
                    tree.append(path.parts, b"mine")
                case "stat":
                    assert tree.stat(path.parts).size != 6
                case "list":
                    assert not {"files", "new", "outside"} & {e.name for e in tree.list(path.parts, 100)}
                case "make":
                    tree.make_folder(path.parts)
                case "remove":
                    tree.remove(path.parts, recursive=True)
                case _:
                    tree.rename(path.parts, FilePath.parse(second).parts)
        except PieError as exc:
            if exc.code not in ALLOWED:
                raise

    assert sorted(path.name for path in outside.rglob("*")) == ["deep", "secret"]
    assert (outside / "secret").read_bytes() == b"SECRET"
    assert sorted(path.name for path in home.iterdir()) == ["outside", "tree"]
    tree.destroy()
    assert (outside / "secret").read_bytes() == b"SECRET"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("scratch/a", BadRequest),
        ("", BadRequest),
        ("/etc/passwd", NotFound),
        ("/", NotFound),
        ("/scratch/../data", Forbidden),
        ("/scratch/a\0", BadRequest),
        ("/scratch/" + "ü" * 128, BadRequest),
        ("/scratch/" + "a/" * 100, BadRequest),
        ("/scratch/" + "a" * 5000, BadRequest),
        ("/Scratch/a", NotFound),
    ],
)
def test_what_is_no_path_is_refused(text: str, error: type[PieError]):
    with pytest.raises(error):
        FilePath.parse(text)


def test_paths_are_read_as_they_are_meant():
    assert FilePath.parse("/scratch//a/./b/").parts == ("a", "b")
    assert str(FilePath.parse("/data//x")) == "/data/x"
    assert FilePath.parse("/data").parts == ()
