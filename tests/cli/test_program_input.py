"""Flags into JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pie_cli.program_input import parse_input
from pie_wire.errors import BadField


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], {}),
        (["--prompt", "Hi there"], {"prompt": "Hi there"}),
        (["--max-tokens", "8"], {"max_tokens": 8}),
        (["--temperature=0.5"], {"temperature": 0.5}),
        (["--n", "-3"], {"n": -3}),
        (["--verbose"], {"verbose": True}),
        (["--verbose", "--name", "x"], {"verbose": True, "name": "x"}),
        (["--flag", "false", "--none", "null"], {"flag": False, "none": None}),
        (["--stop", "a", "--stop", "b"], {"stop": ["a", "b"]}),
        (["--code", "007"], {"code": "007"}),
        (["--text", "1.2.3"], {"text": "1.2.3"}),
        (["--text="], {"text": ""}),
        (["--text", "--"], {"text": "--"}),
        (["--json", '{"a": [1]}'], {"a": [1]}),
        (["--json", '{"a": 1, "b": 2}', "--a", "3"], {"a": 3, "b": 2}),
        (["--json", "[1, 2]"], [1, 2]),
    ],
)
def test_flags(arguments: list[str], expected: Any):
    assert parse_input(arguments) == expected


def test_flags_add_to_an_input_file():
    assert parse_input(["--a", "1"], '{"b": 2}') == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("arguments", "whole"),
    [
        (["name"], ""),
        (["--"], ""),
        (["-n", "3"], ""),
        (["--json", "{"], ""),
        (["--json", "[1]", "--a", "1"], ""),
        (["--json", "{}"], '{"a": 1}'),
        ([], "no json"),
    ],
)
def test_what_is_no_input_is_refused(arguments: list[str], whole: str):
    with pytest.raises(BadField):
        parse_input(arguments, whole)


key = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True).filter(lambda k: k != "json")
text = st.text(max_size=12).filter(lambda t: not t.startswith("--"))


@given(
    st.dictionaries(key, st.lists(st.one_of(text, st.integers(), st.booleans()), min_size=1, max_size=3), max_size=4)
)
def test_every_value_arrives(values: dict[str, list[Any]]):
    arguments: list[str] = []
    for name, items in values.items():
        for item in items:
            arguments += [f"--{name}={item if isinstance(item, str) else json.dumps(item)}"]

    found = parse_input(arguments)

    assert set(found) == set(values)
    for name, items in values.items():
        got = [found[name]] if len(items) == 1 else found[name]
        assert [g if isinstance(g, str) else json.dumps(g) for g in got] == [
            i if isinstance(i, str) and isinstance(g, str) else json.dumps(json.loads(i) if isinstance(i, str) else i)
            for i, g in zip(items, got, strict=True)
        ]
