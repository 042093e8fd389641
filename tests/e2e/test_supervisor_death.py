"""The supervisor killed: nothing outlives it, and the next `pie up` finds everything in order."""

from __future__ import annotations

import os
import signal

from e2e_stack import Stack, eventually, processes_of
from generations import PROMPTS, Generations


def test_no_orphans_and_a_stack_again(scripted: Stack):
    with scripted.client() as client:
        generations = Generations(client, PROMPTS, 100)
        generations.under_way()
        assert scripted.supervisor is not None
        os.kill(scripted.supervisor.pid, signal.SIGKILL)
        scripted.supervisor.wait()
        eventually("nothing is left", lambda: not processes_of(scripted.home), 10.0)
    generations.wait(40)
    assert scripted.pie("status").returncode == 3

    scripted.up()

    with scripted.client() as client:
        assert client.launch("text-completion", {"prompt": "1", "max_tokens": 4}).result(30)
        ended = {process.pid: process for process in client.list(ended=True)}
        for one in generations.all:
            assert ended[one.process.pid].state == "failed"
            last = list(client.attach(one.process.pid).events())[-1]
            assert last.error is not None
            assert last.error.code in ("process_lost", "terminated"), "who had a moment to say so said so"
    scripted.check_quiet()
