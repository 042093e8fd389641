"""The protocol document's tables say what the code does."""

from __future__ import annotations

import pytest
from make_protocol_tables import ADVICE, DOCUMENT, TABLES, render
from pie_wire.codec import REGISTRY
from pie_wire.errors import codes

TEXT = DOCUMENT.read_text()


def test_tables_are_current():
    assert render(TEXT) == TEXT, "run python tests/wire/make_protocol_tables.py"


@pytest.mark.parametrize("name", TABLES)
def test_every_table_is_in_the_document(name: str):
    assert f"<!-- table: {name} -->" in TEXT


def test_every_verb_has_its_section():
    assert [verb for verb in REGISTRY if f"#### `{verb.decode()}`" not in TEXT] == []


def test_every_error_code_says_what_to_do():
    assert set(ADVICE) == codes()
