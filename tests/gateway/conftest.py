"""Lets the tests here import the stand-ins beside them, and gives each a world of its own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from gateway_world import FakeClient, FakeRunner, World


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def runner(world: World) -> FakeRunner:
    return world.runner()


@pytest.fixture
def client(world: World) -> FakeClient:
    return world.client()
