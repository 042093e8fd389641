"""What is in a folder decides how it is built."""

from __future__ import annotations

from pathlib import Path

import pytest
from pie_bakery.node_tools import Node
from pie_bakery.project import read_project
from pie_bakery.rust import RustToolchain
from pie_wire.errors import BadField, NotFound, Unsupported


@pytest.mark.parametrize(
    ("files", "language", "entry"),
    [
        (["main.py"], "python", "main.py"),
        (["main.ts"], "typescript", "main.ts"),
        (["package.json", "src/main.ts"], "typescript", "src/main.ts"),
        (["Cargo.toml", "src/lib.rs"], "rust", "Cargo.toml"),
        (["Cargo.toml", "main.py"], "rust", "Cargo.toml"),
    ],
)
def test_the_files_tell_the_language(tmp_path: Path, files: list[str], language: str, entry: str):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    project = read_project(tmp_path)

    assert (project.language, project.entry) == (language, tmp_path / entry)
    assert project.component == tmp_path / f"{tmp_path.name}.wasm"


def test_the_manifest_overrides_them_and_names_the_component(tmp_path: Path):
    (tmp_path / "Pie.toml").write_text('[package]\nname = "mine"\nversion = "0.1.0"\nlanguage = "python"\n')
    (tmp_path / "Cargo.toml").touch()
    (tmp_path / "main.py").touch()

    project = read_project(tmp_path)

    assert (project.language, project.component) == ("python", tmp_path / "mine.wasm")


@pytest.mark.parametrize(
    ("manifest", "error", "words"),
    [
        ("", NotFound, "nothing to build"),
        ("[package]\nlanguage = 'cobol'\n", BadField, "expected one of python, typescript, rust"),
        ("[package]\nlanguage = 'rust'\n", NotFound, "no Cargo.toml"),
        ("[package\n", BadField, "not valid TOML"),
        ("package = 1\n", BadField, "no \\[package\\] table"),
    ],
)
def test_what_cannot_be_built_is_told(tmp_path: Path, manifest: str, error: type[Exception], words: str):
    if manifest:
        (tmp_path / "Pie.toml").write_text(manifest)

    with pytest.raises(error, match=words):
        read_project(tmp_path)


def test_a_file_is_no_project(tmp_path: Path):
    with pytest.raises(NotFound, match="no folder"):
        read_project(tmp_path / "main.py")


def test_without_rust_the_error_names_the_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))

    with pytest.raises(Unsupported, match=r"rustup target add .* apt-get install"):
        RustToolchain.find()


def test_a_rust_without_the_target_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("cargo", "rustc"):
        (tmp_path / name).write_text("#!/bin/sh\necho /nowhere\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))

    with pytest.raises(Unsupported):
        RustToolchain.find()


def test_without_node_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pie_bakery.node_tools.find_spec", lambda name: None)
    monkeypatch.setattr("pie_bakery.node_tools.find_tool", lambda name: None)

    with pytest.raises(Unsupported, match="pie-mq\\[bakery\\]"):
        Node.find()
