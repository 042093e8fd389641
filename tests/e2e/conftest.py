"""Stacks of real processes. One is up at a time; tests that leave it whole share it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from e2e_stack import Stack, Stacks
from pie_bakery.python_runtime import prepare_python_runtime
from pie_cli.home import pie_home

SCRIPT = {
    "name": "scripted",
    "max_context": 4096,
    "delay_ms": 20,
    "rules": [{"replies": ["".join(f"{number} bottles of beer on the wall. " for number in range(99, 0, -1))]}],
}


@pytest.fixture(scope="session")
def stacks() -> Iterator[Stacks]:
    prepare_python_runtime(pie_home())
    made = Stacks()
    yield made
    made.close()


@pytest.fixture(scope="session")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("script") / "script.json"
    path.write_text(json.dumps(SCRIPT))
    return path


@pytest.fixture
def scripted(stacks: Stacks, script: Path) -> Stack:
    """A stack whose model counts bottles, a letter every twenty milliseconds."""
    return stacks.get("scripted", f"scripted:{script}", runners=2)


@pytest.fixture
def real(stacks: Stacks, smollm2: Path) -> Stack:
    """A stack with the small real model, in the number format in which equal work gives equal tokens."""
    return stacks.get("real", "smollm2", runners=2, PIE_ENGINE_DTYPE="float32", PIE_ENGINE_KV_MEMORY="512MiB")


@pytest.fixture
def small_scripted(stacks: Stacks, script: Path) -> Stack:
    """The scripted model with a pool of 16 pages."""
    return stacks.get("small scripted", f"scripted:{script}", runners=2, PIE_ENGINE_KV_MEMORY="1MiB")


@pytest.fixture
def small_real(stacks: Stacks, smollm2: Path) -> Stack:
    """The small real model with a pool of 12 pages."""
    return stacks.get("small real", "smollm2", runners=2, PIE_ENGINE_DTYPE="float32", PIE_ENGINE_KV_MEMORY="9MB")


SLOW = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(params=["scripted", pytest.param("real", marks=SLOW)])
def kind(request: pytest.FixtureRequest) -> str:
    """The same test with both models; the real one in the slower tier."""
    return request.param


@pytest.fixture
def stack(request: pytest.FixtureRequest, kind: str) -> Stack:
    """The stack of that kind."""
    return request.getfixturevalue(kind)
