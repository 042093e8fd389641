"""File, environment and flags, in that order."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import click
import pytest
from click.testing import CliRunner
from pie_wire.config import load, option, options, pie_home
from pie_wire.errors import BadRequest


@dataclass(frozen=True)
class Example:
    name: str = option("one", "its name")
    kv_memory: int = option(100, "bytes of KV")
    share: float = option(0.5, "a share")
    quiet: bool = option(False, "say less")
    form: Literal["text", "json"] = option("text", "format")
    limit: int | None = option(None, "no limit if unset")


def config_file(folder: Path, text: str) -> Path:
    path = folder / "pie.toml"
    path.write_text(text)
    return path


def test_defaults():
    assert load(Example, "example", environ={}) == Example()


def test_later_sources_win(tmp_path: Path):
    path = config_file(tmp_path, '[example]\nname = "file"\nkv_memory = 1\nshare = 1\n[other]\nx = 1\n')
    environ = {"PIE_CONFIG": str(path), "PIE_EXAMPLE_KV_MEMORY": "2", "PIE_EXAMPLE_QUIET": "true"}

    loaded = load(Example, "example", environ=environ, flags={"kv_memory": 3, "name": None, "unrelated": 1})

    assert loaded == Example(name="file", kv_memory=3, share=1.0, quiet=True)
    assert load(Example, "example", environ=environ).kv_memory == 2


@pytest.mark.parametrize(
    ("text", "environ", "expected"),
    [
        ("[example]\nkv_memroy = 1\n", {}, "no key 'kv_memroy'"),
        ('[example]\nkv_memory = "much"\n', {}, "kv_memory"),
        ("[example\n", {}, "not valid TOML"),
        ("", {"PIE_EXAMPLE_KV_MEMORY": "much"}, "PIE_EXAMPLE_KV_MEMORY"),
        ("", {"PIE_EXAMPLE_FORM": "xml"}, "PIE_EXAMPLE_FORM"),
        ("example = 5\n", {}, "example"),
    ],
)
def test_mistakes_name_their_source(tmp_path: Path, text: str, environ: dict[str, str], expected: str):
    path = config_file(tmp_path, text)

    with pytest.raises(BadRequest, match=expected):
        load(Example, "example", file=path, environ=environ)


def test_a_missing_file(tmp_path: Path):
    with pytest.raises(BadRequest, match="cannot read"):
        load(Example, "example", file=tmp_path / "nope.toml", environ={})


def test_a_file_that_is_no_text(tmp_path: Path):
    (tmp_path / "pie.toml").write_bytes(b"\xff\xfe\x00")

    with pytest.raises(BadRequest, match=r"pie\.toml"):
        load(Example, "example", file=tmp_path / "pie.toml", environ={})


def test_flags_have_the_fields_names():
    @click.command()
    @options(Example)
    def command(**flags: object) -> None:
        click.echo(load(Example, "example", environ={}, flags=flags))

    result = CliRunner().invoke(command, ["--kv-memory", "7", "--quiet", "--limit", "3"])

    assert result.output.strip() == str(Example(kv_memory=7, quiet=True, limit=3))
    assert "bytes of KV" in CliRunner().invoke(command, ["--help"]).output


def test_the_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("PIE_HOME", str(tmp_path / "home"))
    assert pie_home() == tmp_path / "home"
    monkeypatch.delenv("PIE_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert pie_home() == tmp_path / "pie"
