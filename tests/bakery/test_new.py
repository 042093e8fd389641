"""A new program is one that can be built, and that says what it says."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from pie_bakery import new
from pie_bakery.project import LANGUAGES, Language
from pie_gateway.manifest import parse
from pie_wire.errors import BadField, Conflict


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_new_program_is_a_project_with_a_manifest(tmp_path: Path, language: Language):
    project = new(tmp_path / "my-program", language)

    manifest = (project.folder / "Pie.toml").read_text()
    assert parse(manifest).name == project.name == "my-program"
    assert tomllib.loads(manifest)["package"]["language"] == project.language == language
    assert (project.sdk / "inferlet").is_dir()
    assert not [path for path in project.folder.rglob("*") if path.is_file() and b"{{" in path.read_bytes()[:9]]


def test_what_exists_is_left_alone(tmp_path: Path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "main.py").touch()

    with pytest.raises(Conflict):
        new(tmp_path / "mine", "python")


@pytest.mark.parametrize("name", ["Mine", "1st", "a b", "-x"])
def test_a_name_must_be_one_that_can_be_installed(tmp_path: Path, name: str):
    with pytest.raises(BadField):
        new(tmp_path / name, "rust")
