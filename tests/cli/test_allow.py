"""`--allow` and what `pie programs` shows of a manifest."""

from __future__ import annotations

import pytest
from pie_cli.allow import parse_allow
from pie_cli.programs import asks
from pie_wire.capabilities import Grants
from pie_wire.errors import BadField


def test_words_become_grants():
    words = ["http=api.example.com", "http=localhost:80", "fs=data", "mcp=calc", "children"]

    assert parse_allow(words) == Grants(["api.example.com", "localhost:80"], ["data"], ["calc"], True)
    assert parse_allow(["fs"]) == Grants(filesystem=["scratch", "data"])
    assert parse_allow([]) == Grants()


@pytest.mark.parametrize("word", ["", "http", "http=", "http=a b", "fs=root", "mcp", "children=yes", "network"])
def test_other_words_are_refused(word):
    with pytest.raises(BadField):
        parse_allow([word])


def test_programs_shows_what_a_manifest_asks():
    assert asks('[capabilities]\nhttp = ["a.b"]\nchildren = true\n') == "http=a.b children"
    assert asks("") == "-"
    assert asks("[capabilities]\nteleport = true\n") == "?"
