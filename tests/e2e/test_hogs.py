"""Programs that take all they can get, beside one that generates step by step on the same runner of a whole stack."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from e2e_stack import Stack
from pie_runner.wasm.rests import FELT_REST
from pie_wire.errors import DeadlineExceeded, Gone, NotFound
from pie_zmq import Client, Process

sys.path.insert(0, str(Path(__file__).parents[1] / "runner" / "adversarial"))

from costs import CASES, program
from hostile import attack

SETTLED = 3.0
"""Seconds until hogs have used up what is free."""
STEPS = 200
DELAY = 0.025
"""Seconds that 99 of 100 steps may come later."""
MARGIN = 4
"""The hog, the engine and the test itself share the machine's cores with whatever else runs."""
PATIENT = b"""
import time
from inferlet import Context

async def main(steps):
    gaps = []
    with Context() as context:
        context.append([1, 2, 3])
        since = time.monotonic()
        async for step in context.generate(max_tokens=steps, window=1):
            now = time.monotonic()
            gaps.append(now - since)
            since = now
    return gaps[5:]
"""
LARGE_FILE = b"""
import time
from inferlet import session

def main():
    content = bytes(64 << 20)
    since = time.monotonic()
    session.send_file("large", content)
    return time.monotonic() - since
"""
HOGS = {
    "loop": lambda: attack("(loop $for_ever (br $for_ever))"),
    "host calls": lambda: attack("(loop $again (drop (call $now)) (br $again))"),
    "memory": lambda: attack(
        "(loop $more (if (i32.eq (memory.grow (i32.const 64)) (i32.const -1)) (then (unreachable)))"
        "(memory.fill (i32.shl (i32.sub (memory.size) (i32.const 64)) (i32.const 16)) (i32.const 1)"
        "(i32.const 4194304)) (br $more))"
    ),
    "recursion": lambda: attack(
        "(drop (call $deep (i32.const 1)))",
        "(func $deep (param i32) (result i32) (i32.add (call $deep (i32.add (local.get 0) (i32.const 1))) "
        "(i32.const 1)))",
    ),
} | {
    name: lambda name=name: program(CASES[name], endless=True)
    for name in (
        "session/send-bytes",
        "session/send-file",
        "model/tokenizer.decode",
        "model/tokenizer.encode",
        "chat/render",
        "decoders/call-grammar",
        "grammar/grammar.compile",
        "logits/logits.topk",
        "logits/logits.keep-typical-p",
        "forward/execute draws",
        "log/stdout",
    )
}
"""Programs; those that soon end are launched again and again."""


@pytest.fixture
def stack(script: Path) -> Iterator[Stack]:
    """One for each kind, whose tenant has nothing to pay for."""
    stack = Stack(f"scripted:{script}", runners=1)
    try:
        stack.up()
        yield stack
    finally:
        stack.close()


@pytest.fixture
def usual(stack: Stack) -> list[float]:
    """What steps take when nothing else runs. The first ones come while the stack is still busy with its own start."""
    with stack.client() as client:
        steps(client)
        return steps(client)


def steps(client: Client) -> list[float]:
    return client.launch(f"sha256:{client.upload(PATIENT)}", {"steps": STEPS}).result(120)


def p99(seconds: list[float]) -> float:
    return statistics.quantiles(seconds, n=100)[98]


def keep(client: Client, artifact: str, hogs: list[Process], count: int) -> None:
    """So many of them are running."""
    alive = {info.pid for info in client.list()}
    hogs[:] = [hog for hog in hogs if hog.pid in alive]
    while len(hogs) < count:
        hogs.append(client.launch(artifact, kind="component", on_full="drop", attach=False))


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", HOGS)
def test_steps_of_others_are_hardly_delayed(
    stack: Stack, usual: list[float], kind: str, capsys: pytest.CaptureFixture[str]
):
    restarts = {name: service.restarts for name, service in stack.services().items()}
    with stack.client() as client:
        artifact = f"sha256:{client.upload(HOGS[kind]())}"
        hogs: list[Process] = []
        keep(client, artifact, hogs, 2)
        time.sleep(SETTLED)
        patient = client.launch(f"sha256:{client.upload(PATIENT)}", {"steps": STEPS})
        gaps: list[float] = []
        while not gaps:
            keep(client, artifact, hogs, 2)
            with suppress(DeadlineExceeded):
                gaps = patient.result(0.5)
        for hog in hogs:
            with suppress(NotFound, Gone):
                hog.terminate()
    delay = p99(gaps) - p99(usual)
    with capsys.disabled():
        sys.stdout.write(
            f"\n{kind}: {p99(usual) * 1000:.1f} ms alone, {p99(gaps) * 1000:.1f} ms with hogs, "
            f"median {statistics.median(gaps) * 1000:.1f} ms, at most {max(gaps) * 1000:.1f} ms\n"
        )
    assert {name: service.restarts for name, service in stack.services().items()} == restarts
    assert delay < DELAY * MARGIN


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_one_large_file_is_not_held_up(stack: Stack, usual: list[float], capsys: pytest.CaptureFixture[str]):
    """Beside others, by a program that does it once: what is free for its tenant is enough."""
    with stack.client() as client:
        patient = client.launch(f"sha256:{client.upload(PATIENT)}", {"steps": 2 * STEPS})
        since = time.monotonic()
        process = client.launch(f"sha256:{client.upload(LARGE_FILE)}")
        took = process.result(120)
        seconds = time.monotonic() - since
        gaps = patient.result(120)
    with capsys.disabled():
        sys.stdout.write(
            f"\na file of 64 MiB: {took:.1f} s in the program, {seconds:.1f} s until its end was here; another's steps "
            f"{p99(gaps) * 1000:.1f} ms (alone {p99(usual) * 1000:.1f}), at most {max(gaps) * 1000:.1f} ms\n"
        )
    assert took < FELT_REST
