"""A model folder of one store, linked into another."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pie_cli import model_sources
from pie_cli.model_folder import INFO_FILE
from pie_cli.model_sources import parse_source
from pie_cli.steps import Steps


@pytest.mark.parametrize("copy", [False, True])
def test_the_description_of_the_other_store_stays_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, copy: bool):
    monkeypatch.setattr(model_sources, "check_folder", lambda folder: None)
    source, target = tmp_path / "source", tmp_path / "target"
    for folder in (source, target):
        folder.mkdir()
    (source / "config.json").write_text("{}")
    (source / INFO_FILE).write_text(json.dumps({"name": "theirs"}))

    parse_source(f"path:{source}", copy=copy).fetch(target, Steps())

    assert [path.name for path in target.iterdir()] == ["config.json"]
