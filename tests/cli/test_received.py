"""Files of programs end in the user's folder or nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from pie_cli.received import SaveFolder
from pie_wire.errors import BadRequest


@pytest.fixture
def folder(tmp_path: Path) -> SaveFolder:
    return SaveFolder(tmp_path / "in")


def test_nothing_is_overwritten(folder: SaveFolder, tmp_path: Path):
    paths = [folder.save("a.tar.gz", bytes([n])) for n in range(3)] + [folder.save(".hidden", b"h")] * 1

    assert [path.name for path in paths] == ["a.tar.gz", "a.tar-1.gz", "a.tar-2.gz", ".hidden"]
    assert [path.read_bytes() for path in paths] == [b"\0", b"\1", b"\2", b"h"]
    assert folder.save(".hidden", b"i").name == ".hidden-1"


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "/etc/passwd", "a/b", "a\\b", "a\0b", "a\nb", "x" * 256, "\u4e16" * 100, "\udcff"]
)
def test_names_that_lead_elsewhere(folder: SaveFolder, tmp_path: Path, name: str):
    with pytest.raises(BadRequest):
        folder.save(name, b"x")

    assert list(tmp_path.rglob("*")) == [tmp_path / "in"]


def test_links_are_not_followed(folder: SaveFolder, tmp_path: Path):
    target = tmp_path / "target"
    (tmp_path / "in" / "a").symlink_to(target)
    (tmp_path / "in" / "b").symlink_to(tmp_path)

    assert folder.save("a", b"x").name == "a-1"
    assert folder.save("b", b"x").name == "b-1"
    assert not target.exists()


def test_a_folder_that_is_moved_away_takes_its_files_along(folder: SaveFolder, tmp_path: Path):
    (tmp_path / "in").rename(tmp_path / "moved")
    (tmp_path / "in").symlink_to("/")

    folder.save("a", b"x")

    assert (tmp_path / "moved" / "a").read_bytes() == b"x"


def test_a_folder_that_cannot_be(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadRequest):
        SaveFolder(tmp_path / "file" / "x")
