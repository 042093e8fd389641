"""What the operator grants, and what a launch makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from gateway_world import World
from pie_gateway.config import GatewayConfig
from pie_gateway.policy import Policy
from pie_wire.capabilities import Capabilities, Grants
from pie_wire.errors import BadField, BadRequest, Forbidden
from pie_wire.hub import Scope
from pie_wire.messages.common import Program, ProgramRef
from pie_wire.messages.gateway import Launch

POLICY = """
[[grant]]
http = ["api.example.com"]

[[grant]]
programs = ["weather", "sha256:abc*"]
users = ["ada"]
children = true

[[grant]]
programs = ["weather@1.*"]
tenants = ["acme"]
mcp = ["*"]
"""
ADA = Scope("acme", "ada", "")
BOB = Scope("other", "bob", "")


@pytest.fixture
def policy(tmp_path: Path) -> Policy:
    path = tmp_path / "policy.toml"
    path.write_text(POLICY)
    return Policy.load(str(path), users_grant=False)


def weather(version: str) -> ProgramRef:
    return ProgramRef("weather", version, "python", "f" * 64)


def test_rules_add_up_for_whom_they_fit(policy: Policy):
    everyone = Grants(http=["api.example.com"])

    assert policy.granted(ProgramRef("other", "1.0.0", "python", "f" * 64), ADA) == everyone
    assert policy.granted(weather("1.2.0"), BOB) == everyone
    assert policy.granted(weather("2.0.0"), ADA) == everyone | Grants(children=True)
    assert policy.granted(weather("1.2.0"), ADA) == everyone | Grants(mcp=["*"], children=True)


def test_an_upload_is_known_by_its_bytes_not_by_its_name(policy: Policy):
    assert not policy.granted(ProgramRef("weather", "", "python", "f" * 64), ADA).children
    assert policy.granted(ProgramRef("x.py", "", "python", "abc" + "f" * 61), ADA).children


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[grant]\n", "TOML"),
        ("[grants]\nhttp = []\n", "grants"),
        ("grant = 1\n", "grant"),
        ("grant = [1]\n", "number 1"),
        ("[[grant]]\nport = 1\n", "port"),
        ("[[grant]]\nusers = []\n", "users"),
        ("[[grant]]\nusers = 'ada'\n", "users"),
        ("[[grant]]\nhttp = ['a b']\n", "number 1.*host pattern"),
    ],
)
def test_a_policy_that_is_none_is_refused_where_it_is_wrong(tmp_path: Path, text: str, says: str):
    path = tmp_path / "policy.toml"
    path.write_text(text)

    with pytest.raises((BadRequest, BadField), match=says):
        Policy.load(str(path), users_grant=False)


def test_a_missing_policy_is_no_empty_one(tmp_path: Path):
    with pytest.raises(BadRequest, match="cannot read the policy"):
        Policy.load(str(tmp_path / "none.toml"), users_grant=False)


@pytest.mark.parametrize(
    ("setting", "endpoint", "expected"),
    [
        ("auto", "ipc:///run/x.sock", True),
        ("auto", "tcp://0.0.0.0:7070", False),
        ("off", "ipc:///run/x.sock", False),
        ("on", "tcp://0.0.0.0:7070", True),
    ],
)
def test_who_may_grant_follows_from_who_can_dial(setting, endpoint, expected):
    assert GatewayConfig(user_grants=setting, endpoint=endpoint).users_grant is expected


ASKING = '[package]\nname = "asking"\nversion = "1.0.0"\n\n[capabilities]\nhttp = ["api.example.com"]\n'
GIVEN = Grants(http=["localhost:9000"], children=True)


def asking_world(policy: Policy | None = None) -> World:
    world = World(policy=policy)
    world.kvstore.programs.append(Program(ProgramRef("asking", "1.0.0", "python", "b" * 64), ASKING))
    return world


def started(world: World, **fields: Any) -> Capabilities:
    runner = world.runner()
    pid = world.client().launch(**fields)
    return runner.processes[pid].start.capabilities


def test_a_start_says_what_the_manifest_asks_and_the_operator_grants(policy: Policy):
    capabilities = started(asking_world(policy), program="asking")

    assert capabilities.asked == Grants(http=["api.example.com"])
    assert capabilities.granted == Grants(http=["api.example.com"])
    assert capabilities.parent is None


def test_without_a_policy_nothing_is_granted():
    assert not started(asking_world(), program="asking").granted


def test_users_may_grant_only_where_the_operator_lets_them():
    capabilities = started(asking_world(Policy(users_grant=True)), program="asking", allow=GIVEN)
    assert capabilities.asked == Grants(http=["api.example.com"]), "an installed program asks by its manifest alone"
    assert capabilities.granted == GIVEN

    with pytest.raises(Forbidden, match="http=localhost:9000, children"):
        started(asking_world(), program="asking", allow=GIVEN)


def test_an_upload_asks_by_the_manifest_beside_it_and_by_what_its_launcher_allows():
    world = asking_world(Policy(users_grant=True))
    world.kvstore.complete.add("c" * 64)
    program = f"sha256:{'c' * 64}"

    asked = started(world, program=program, manifest=ASKING, allow=GIVEN).asked
    assert asked == Grants(http=["api.example.com"]) | GIVEN
    assert not started(world, program=program).asked, "nothing is remembered from another launch"
    with pytest.raises(BadField, match="socks"):
        started(world, program=program, manifest="[capabilities]\nsocks = true\n")


def test_bad_grants_are_refused_before_anything_runs():
    world = asking_world(Policy(users_grant=True))

    with pytest.raises(BadField, match="host pattern"):
        world.client().ask(Launch(world.pid(), "asking", allow=Grants(http=["a b"])))
