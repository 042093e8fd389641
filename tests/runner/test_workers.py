"""What worker threads are given lets the loop come between: no call keeps the interpreter's lock for long."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from click.testing import CliRunner
from pie_runner import __main__ as command
from pie_runner.base64_pieces import decoded, encoded
from pie_runner.host import chat
from pie_runner.models import Model, load_model
from pie_wire.errors import Unavailable
from pie_wire.grammars import allowed_bits, new_matcher, translated
from pie_wire.messages.common import ModelFacts
from pie_wire.messages.engine import Grammar

MIB = 1 << 20
CHOICES = {
    "anyOf": [{"type": "object", "properties": {f"p{i}": {"type": "integer", "minimum": i}}} for i in range(700)]
}
TEXT = "some words of a long text " * 20_000
CONVERSATION = json.dumps([{"role": "user", "content": "some words"}] * 4000)


@pytest.fixture(scope="module")
def model(smollm2_files: dict[str, bytes]) -> Model:
    return load_model(ModelFacts("m", 49152, 8192), smollm2_files)


@pytest.fixture
def switching() -> Iterator[None]:
    """As in a runner."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(command.SWITCH_SECONDS)
    yield
    sys.setswitchinterval(before)


def compiled(model: Model) -> Callable[[], object]:
    grammar = translated(Grammar("json-schema", json.dumps(CHOICES)))
    follower = model.follower
    assert follower is not None
    return lambda: allowed_bits(new_matcher(follower, grammar), 49152)


def base64_read(_: Model) -> Callable[[], object]:
    text = "QUJD" * (8 * MIB)
    return lambda: decoded(text, "it")


def base64_written(_: Model) -> Callable[[], object]:
    data = bytes(48 * MIB)
    return lambda: encoded(data)


def text_of(model: Model) -> Callable[[], object]:
    ids = model.tokenizer.encode(TEXT)
    return lambda: model.tokenizer.decode(ids, skip_special=True)


WORK: dict[str, Callable[[Model], Callable[[], object]]] = {
    "encoding": lambda model: lambda: model.tokenizer.encode(TEXT),
    "decoding": text_of,
    "rendering": lambda model: lambda: chat._rendered(model, CONVERSATION, None, True),
    "compiling a grammar": compiled,
    "base64, read": base64_read,
    "base64, written": base64_written,
}


@pytest.mark.usefixtures("switching")
@pytest.mark.parametrize("kind", WORK)
def test_the_loop_comes_between(model: Model, kind: str):
    """Gaps are measured as processor time of this process: what other processes take is none of theirs."""
    thread = threading.Thread(target=WORK[kind](model))
    longest, start = 0.0, time.process_time()
    since = start
    thread.start()
    while thread.is_alive():
        time.sleep(0.0005)
        now = time.process_time()
        longest, since = max(longest, now - since), now
    assert longest < max(0.025, (since - start) / 3), since - start


def test_threads_of_a_runner_give_way_soon(monkeypatch: pytest.MonkeyPatch):
    before, found = sys.getswitchinterval(), list[float]()

    def service(*_: Any) -> None:
        found.append(sys.getswitchinterval())
        raise Unavailable("enough is known")

    monkeypatch.setattr("pie_runner.service.RunnerService", service)
    try:
        result = CliRunner().invoke(command.main, [])
    finally:
        sys.setswitchinterval(before)

    assert (result.exit_code, found) == (1, [pytest.approx(command.SWITCH_SECONDS)])
