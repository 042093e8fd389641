"""An engine that is stopped for ten seconds: seen as stuck, nothing lost when it goes on."""

from __future__ import annotations

import os
import signal
import time

import pytest
from e2e_stack import Stack, eventually
from generations import PROMPTS, Generations

STOPPED = 10.0
SEEN_WITHIN = 4.0


@pytest.mark.slow
def test_sigstop(stack: Stack):
    engine = stack.services()["engine-0"]
    with stack.client() as client:
        generations = Generations(client, PROMPTS, 40)
        generations.under_way()
        os.kill(engine.pid, signal.SIGSTOP)
        begun = time.monotonic()
        try:
            eventually("it is seen as stuck", lambda: stack.status()["engine-0"]["health"] == "stuck", SEEN_WITHIN)
            assert stack.status()["gateway"]["health"] == "up"
            time.sleep(max(0.0, begun + STOPPED - time.monotonic()))
        finally:
            os.kill(engine.pid, signal.SIGCONT)
        generations.wait()
        assert all(generations.texts())
    assert stack.services()["engine-0"] == engine
    eventually("it is up again", lambda: stack.status()["engine-0"]["health"] == "up", 5.0)
    stack.check_quiet()
