"""The map names places that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = [
    *sorted((ROOT / "docs" / "decisions").glob("*.md")),
    ROOT / "docs" / "architecture.md",
    ROOT / "docs" / "protocol.md",
]
PLACE = re.compile(r"`((?:wire|services|client|cli|bakery|sdk|inferlets|tests|docs)/[\w./-]*)`")
LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)")


@pytest.mark.parametrize("document", DOCS, ids=lambda path: path.name)
def test_paths_exist(document: Path):
    text = document.read_text()

    missing = [place for place in PLACE.findall(text) if not (ROOT / place).exists()]
    missing += [place for place in LINK.findall(text) if not (document.parent / place).exists()]

    assert missing == []


def test_every_decision_is_in_the_index():
    index = (ROOT / "docs" / "decisions" / "README.md").read_text()

    decisions = [path.name for path in (ROOT / "docs" / "decisions").glob("[0-9]*.md")]

    assert [name for name in decisions if f"({name})" not in index] == []
