"""What all tests share: how to ask for a tool or a model, and one hypothesis profile."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Test machines are small and shared: a slow example is no finding, only a failing one is.
settings.register_profile("pie", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("pie")


def _missing(reason: str) -> None:
    """Skip with a named reason for a user; fail in CI, where a skip would hide a missing install."""
    if os.environ.get("CI", "").lower() in {"1", "true"}:
        pytest.fail(f"{reason} (a skip outside CI)", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def missing() -> Callable[[str], None]:
    """Call with the reason when what a test needs is not there."""
    return _missing


@pytest.fixture(scope="session")
def require_tool() -> Callable[[str], str]:
    """Call with a program's name: its path, looked for beside the interpreter first and then on PATH."""

    def find(name: str) -> str:
        beside = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        found = shutil.which(name, path=beside)
        if found is None:
            _missing(f"{name} is not installed")
        return str(found)

    return find


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The folder of the small real model that `make prepare` pulls."""
    from pie_cli.model_store import resolve
    from pie_wire.errors import NotFound

    try:
        return resolve("smollm2")
    except NotFound as error:
        _missing(error.message)
        raise
