"""A client that vanishes in the middle of a stream: its process goes on or ends, as its launch asked."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

from e2e_stack import Stack, eventually

CLIENT = """
import json, sys
from pie_zmq import Client

endpoint, on_disconnect = sys.argv[1:]
input = {"prompt": "Once", "max_tokens": 60, "temperature": 0}
process = Client(endpoint).launch("text-completion", input, on_disconnect=on_disconnect)
print(process.pid, flush=True)
for event in process.events():
    print(json.dumps([event.seq, event.kind, event.text]), flush=True)
"""


@dataclass
class Vanished:
    """A client that was killed: which process it had, what it had seen of it, and when it died."""

    pid: str
    seen: list[tuple[int, str, str]]
    at: float


def vanish(stack: Stack, on_disconnect: str, after: int = 5) -> Vanished:
    """Launch as a process of its own that is killed when it has seen so many events."""
    command = [sys.executable, "-c", CLIENT, stack.endpoint, on_disconnect]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = process.stdout.readline().strip()
        lines = [process.stdout.readline() for _ in range(after)]
        process.send_signal(signal.SIGKILL)
    return Vanished(pid, [tuple(json.loads(line)) for line in lines], time.monotonic())


def test_it_goes_on_and_attach_gets_every_event(scripted: Stack):
    gone = vanish(scripted, "continue")
    middle = len(gone.seen) - 1

    with scripted.client() as client:
        rest = [(event.seq, event.kind, event.text) for event in client.attach(gone.pid, middle).events()]
        whole = [(event.seq, event.kind, event.text) for event in client.attach(gone.pid).events()]
        expected = client.launch("text-completion", {"prompt": "Once", "max_tokens": 60, "temperature": 0}).result(60)

    assert [seq for seq, _, _ in whole] == list(range(1, len(whole) + 1))
    assert whole[: len(gone.seen)] == gone.seen
    assert whole[middle - 1 :] == rest
    assert whole[-1][1:] == ("return", json.dumps(expected))
    assert "".join(text for _, kind, text in whole if kind == "message") == expected
    scripted.check_quiet()


def test_it_ends(scripted: Stack):
    gone = vanish(scripted, "terminate")

    with scripted.client() as client:
        info = eventually(
            "the process has ended",
            lambda: next((p for p in client.list(ended=True) if p.pid == gone.pid and p.state == "failed"), None),
            3.0,
        )
        assert info.error is not None
        assert info.error.code == "terminated"
    scripted.check_quiet()
