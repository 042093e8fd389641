"""One stack for all tests here, taken down afterwards with everything it stored."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from containers import Stack, free_port, missing


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """The stack, up and healthy."""
    reason = missing()
    if reason:
        pytest.skip(f"no container engine with compose: {reason}")
    client, http = free_port(), free_port()
    settings = {"PIE_PORT": str(client), "PIE_HTTP_PORT": str(http), "PIE_KV_MEMORY": "256MiB", "PIE_TAG": "e2e"}
    stack = Stack(os.environ | settings, f"tcp://127.0.0.1:{client}", f"http://127.0.0.1:{http}")
    try:
        try:
            stack.up()
        except AssertionError as error:
            pytest.fail(f"{error}\n{stack.compose('logs', '--tail', '40', check=False)}", pytrace=False)
        yield stack
    finally:
        stack.compose("down", "--volumes", "--remove-orphans", check=False)
