"""`kill -9` of each service in the middle of ten generations: row by row what the table of deaths promises."""

from __future__ import annotations

import os
import signal
import time

import pytest
from e2e_stack import Stack
from generations import PROMPTS, Generations, texts_of
from pie_wire.errors import PieError, ProcessLost, ProgramError
from pie_zmq import Client

TOKENS = 40
ANSWERED = 3.0
"""Seconds from a death until every client that waits for something has its answer."""


def launches_again(stack: Stack) -> None:
    """A new program generates, and afterwards all is as if nothing had been."""
    with stack.client() as client:
        assert texts_of(client, PROMPTS[:1], 8)[0]
    stack.check_quiet()


def check_launch(client: Client, since: float) -> None:
    """A launch without a store either works or is refused in time, as something that can be tried again."""
    try:
        client.launch("hello").result(30)
    except PieError as exc:
        refusal = exc
    else:
        return
    assert refusal.retryable
    assert time.monotonic() - since < ANSWERED


@pytest.fixture(scope="module")
def known() -> dict[str, list[str]]:
    return {}


@pytest.fixture
def expected(stack: Stack, known: dict[str, list[str]]) -> list[str]:
    """What the ten say when nothing happens; a model repeats itself."""
    if stack.model not in known:
        with stack.client() as client:
            known[stack.model] = texts_of(client, PROMPTS, TOKENS)
    return known[stack.model]


def test_kvstore(stack: Stack, expected: list[str]):
    epochs = members(stack)
    with stack.client() as client:
        generations = Generations(client, PROMPTS, TOKENS)
        generations.under_way()
        killed = stack.kill("kvstore")
        check_launch(client, killed.at)
        generations.wait()
        assert generations.texts() == expected
    stack.wait_restarted(killed)
    launches_again(stack)
    after = members(stack)
    assert {name: epochs[name] for name in epochs if name != "kvstore"} == {
        n: after[n] for n in after if n != "kvstore"
    }


def test_redis(stack: Stack, expected: list[str]):
    with stack.client() as client:
        generations = Generations(client, PROMPTS, TOKENS)
        generations.under_way()
        restarts, redis = stack.services()["kvstore"].restarts, stack.redis()
        os.kill(redis, signal.SIGKILL)
        killed = time.monotonic()
        check_launch(client, killed)
        generations.wait()
        assert generations.texts() == expected
    assert stack.services()["kvstore"].restarts == restarts
    assert stack.redis() != redis
    launches_again(stack)


def test_engine(stack: Stack):
    with stack.client() as client:
        generations = Generations(client, PROMPTS, TOKENS)
        generations.under_way()
        killed = stack.kill("engine-0")
        generations.wait(30)
        assert generations.latest_end() - killed.at < ANSWERED
        for one in generations.all:
            assert isinstance(one.error, ProgramError), "the program did not catch it"
            assert one.error.cause == "engine_lost"
    stack.wait_restarted(killed)
    launches_again(stack)


@pytest.mark.parametrize(
    "by", [pytest.param(signal.SIGKILL, id="killed"), pytest.param(signal.SIGSEGV, id="crash", marks=pytest.mark.slow)]
)
def test_runner(stack: Stack, by: signal.Signals):
    """Killed, or by a crash of its native code: only its own programs are lost."""
    with stack.client() as client:
        generations = Generations(client, PROMPTS, TOKENS)
        generations.under_way()
        mine = {info.pid for info in client.list() if info.runner == "runner-0"}
        assert 0 < len(mine) < 10, "launches were spread over the runners"
        killed = stack.kill("runner-0", by)
        generations.wait()
        lost = [one for one in generations.all if one.process.pid in mine]
        for one in lost:
            assert isinstance(one.error, ProcessLost)
            assert one.ended_at - killed.at < ANSWERED
        for one in generations.all:
            assert one in lost or one.text
    stack.wait_restarted(killed)
    launches_again(stack)


def test_gateway(stack: Stack, expected: list[str]):
    with stack.client() as client:
        generations = Generations(client, PROMPTS, TOKENS)
        generations.under_way()
        killed = stack.kill("gateway")
        assert client.launch("hello", {"name": "again"}).result(30) == "Hello, again!"
        assert time.monotonic() - killed.at < 10.0
        generations.wait()
        assert generations.texts() == expected
    stack.wait_restarted(killed)
    launches_again(stack)


def members(stack: Stack) -> dict[str, int]:
    with stack.client() as client:
        return {member.name: member.epoch for member in client.status().members}
