"""What a process does with its operating system."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time

import pytest
from pie_wire.process import host_id, identity, is_alive, watch

linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux only")

SLEEPER = "import time; print('up', flush=True); time.sleep(60)"
PARENT = f"""
import subprocess, sys
program = "from pie_wire.process import die_with_parent; die_with_parent();" + {SLEEPER!r}
child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
sys.stdin.read()
"""
STOPPING = """
import time
from pie_wire.process import Shutdown
told = []
shutdown = Shutdown(lambda: told.append(1))
print("up", flush=True)
shutdown.requested.wait(30)
print("asked", len(told), flush=True)
time.sleep(60)
"""


def start(program: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_identities_differ_by_incarnation():
    one, two = identity("client", "me"), identity("client", "me")

    assert one.incarnation != two.incarnation
    assert (one.pid, one.host, one.epoch) == (os.getpid(), host_id(), 0)


@linux
def test_a_watched_process_that_ends_is_readable():
    with start(SLEEPER) as process:
        line(process)
        fd = watch(process.pid)
        assert fd is not None
        try:
            assert is_alive(process.pid)
            assert select.select([fd], [], [], 0)[0] == []
            process.kill()
            assert select.select([fd], [], [], 5)[0] == [fd]
        finally:
            os.close(fd)
        process.wait()
        assert not is_alive(process.pid)


def test_what_cannot_be_watched():
    assert watch(0) is None
    assert watch(2**22 + 5) is None
    assert not is_alive(2**22 + 5)


@linux
def test_a_child_ends_with_its_parent():
    with start(PARENT) as parent:
        child = int(line(parent))
        assert is_alive(child)
        parent.kill()
    fd = watch(child)
    if fd is not None:
        assert select.select([fd], [], [], 5)[0] == [fd]
        os.close(fd)


def test_the_first_signal_asks_and_the_second_forces():
    with start(STOPPING) as process:
        assert line(process) == "up"
        process.send_signal(signal.SIGTERM)
        assert line(process) == "asked 1"
        begin = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(5) == 128 + signal.SIGINT
        assert time.monotonic() - begin < 5
