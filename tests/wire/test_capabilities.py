"""Capabilities: asked and granted, and what a refusal says."""

from __future__ import annotations

import pytest
from pie_wire.capabilities import Capabilities, Grants, asked_by, checked
from pie_wire.errors import BadField, Forbidden

MANIFEST = """
[package]
name = "x"

[capabilities]
http = ["api.example.com", "10.0.0.0/8:8080"]
filesystem = ["scratch"]
mcp = ["calculator"]
children = true
"""
ALL = asked_by(MANIFEST)


def children(capabilities: Capabilities) -> None:
    capabilities.require(lambda grants: grants.children, "launching programs", "children = true", "children")


def test_a_manifest_asks_for_what_it_lists():
    assert Grants(["api.example.com", "10.0.0.0/8:8080"], ["scratch"], ["calculator"], True) == ALL
    assert not asked_by('[package]\nname = "x"')
    assert not asked_by("")


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ('sockets = ["a"]', "sockets"),
        ('http = "a.b"', "http"),
        ('http = ["http://x.example/c"]', "host pattern"),
        ('filesystem = ["root"]', "filesystem"),
        ('mcp = ["../x"]', "tool server"),
        ("children = 1", "children"),
        ("http = [", "TOML"),
        ("http = " + "[" * 5000 + "]" * 5000, "TOML"),
    ],
)
def test_a_manifest_that_asks_for_what_there_is_not_is_refused_by_name(entry, says):
    with pytest.raises(BadField, match=says):
        asked_by(f"[capabilities]\n{entry}\n")


def test_lists_are_bounded():
    with pytest.raises(BadField, match="at most"):
        checked(Grants(http=["a.b"] * 1000))


def test_nothing_is_allowed_by_default():
    with pytest.raises(Forbidden, match="does not ask"):
        children(Capabilities())


def test_each_side_must_allow_it_and_the_refusal_names_the_side():
    children(Capabilities(ALL, ALL))
    with pytest.raises(Forbidden, match=r"Put `children = true` under \[capabilities\] in its Pie.toml"):
        children(Capabilities(Grants(), ALL))
    with pytest.raises(Forbidden, match=r"policy file \(setting `policy`\).*pie run --allow children"):
        children(Capabilities(ALL, Grants()))


def test_a_child_may_do_no_more_than_its_parent():
    parent = Capabilities(ALL, ALL)
    children(parent.of_child(ALL, ALL))
    grandchild = Capabilities(ALL, Grants(http=["a.b"])).of_child(ALL, ALL).of_child(ALL, ALL)

    with pytest.raises(Forbidden, match="launched it"):
        children(grandchild)


def test_grants_add_up_and_are_said_as_the_command_line_takes_them():
    both = Grants(http=["a.b"]) | Grants(http=["a.b", "c.d"], filesystem=["data"], children=True)

    assert both.words() == ["http=a.b", "http=c.d", "filesystem=data", "children"]
