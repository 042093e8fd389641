"""The engine as a process: a runner's hub on the other end of a real socket."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pie_engine.models import byte_tokenizer
from pie_wire.errors import StaleEpoch
from pie_wire.hub import Answer, Hub, Incoming
from pie_wire.messages import engine as wire
from pie_wire.messages.common import Account
from pie_wire.messages.kvstore import Join, Joined
from pie_wire.messages.runner import Step
from pie_wire.process import identity
from pie_wire.transport import Transport

STARTUP = 60.0


@dataclass
class Remote:
    """A runner's end of the link."""

    process: subprocess.Popen[bytes]
    hub: Hub
    transport: Transport
    steps: list[Step] = field(default_factory=list)
    next_op: int = 1

    def until(self, condition, seconds: float = 20.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "nothing came in time"
            assert self.process.poll() is None, "the engine has ended"
            self.transport.poll(0.05)

    def send(self, *ops: wire.Op) -> int:
        peer = self.hub.peer("engine")
        assert peer is not None
        self.hub.send(peer, wire.Ops(self.next_op, list(ops)))
        self.next_op += len(ops)
        return self.next_op - 1

    def tokens(self, run: int) -> list[int]:
        found: list[int] = []
        for step in self.steps:
            at = 0
            for number, count in zip(step.runs, step.counts, strict=True):
                if number == run:
                    found += step.tokens[at : at + count]
                at += count
        return found

    def ended(self, run: int) -> bool:
        return any(end.run == run for step in self.steps for end in step.ends)

    def generate(self, context: int, text: str, run: int, max_tokens: int = 64) -> str:
        self.send(
            wire.Create(context, "p", "local", Account()),
            wire.Append(context, 0, byte_tokenizer.encode(text)),
            wire.OpenRun(context, 0, run, wire.SamplerSpec(), 0, list(byte_tokenizer.EOS_IDS), max_tokens, 1000),
        )
        self.until(lambda: self.ended(run))
        return byte_tokenizer.decode(self.tokens(run))


@pytest.fixture
def delay_ms() -> int:
    """Time of a pass; a test may override it by parameter."""
    return 5


@pytest.fixture
def remote(tmp_path: Path, delay_ms: int) -> Generator[Remote]:
    script = tmp_path / "demo.json"
    rules = [
        {"when": "weather", "replies": ["It rains.", "Now the sun shines."]},
        {"replies": ["I do not know."]},
    ]
    script.write_text(json.dumps({"rules": rules, "delay_ms": delay_ms}))
    endpoint = f"ipc://{tmp_path}/engine.sock"
    command = [sys.executable, "-m", "pie_engine", "--model", f"scripted:{script}", "--endpoint", endpoint]
    command += ["--kvstore-endpoint", f"ipc://{tmp_path}/kv.sock", "--kv-memory", "64MiB"]
    process = subprocess.Popen(command, env=os.environ | {"PIE_HOME": str(tmp_path), "PIE_NATIVE": "0"})
    hub = Hub(identity("runner", "r0"), time.monotonic)
    transport = Transport(hub)
    remote = Remote(process, hub, transport)
    hub.on(Step, lambda incoming: _keep(remote, incoming))
    transport.dial("engine", endpoint)
    try:
        remote.until(lambda: hub.peer("engine") is not None, STARTUP)
        yield remote
    finally:
        transport.close()
        process.terminate()
        process.wait(10)


def _keep(remote: Remote, incoming: Incoming[Step]) -> None:
    remote.steps.append(incoming.message)


def test_scripted_replies_one_after_the_other(remote):
    assert remote.generate(1, "How is the weather?", 1) == "It rains."
    remote.send(wire.CloseRun(1, 1, 9), wire.Append(1, 0, byte_tokenizer.encode("<|im_end|>And now?")))
    remote.send(wire.OpenRun(1, 0, 2, wire.SamplerSpec(), 0, list(byte_tokenizer.EOS_IDS), 64, 1000))
    remote.until(lambda: remote.ended(2))
    assert byte_tokenizer.decode(remote.tokens(2)) == "Now the sun shines."
    assert remote.generate(2, "Anything else?", 3) == "I do not know."


def test_model_facts_and_tokenizer_files(remote):
    answers: list[Answer[wire.ModelReply]] = []
    remote.hub.request("engine", wire.GetModel(), answers.append, timeout=5)
    remote.until(lambda: bool(answers))
    reply = answers[0].value()
    assert reply.facts.name == "demo"
    assert reply.facts.vocab == byte_tokenizer.VOCAB
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_buffer(bytes(answers[0].buffers[reply.files.index("tokenizer.json")]))
    text = "Grüße, 世界 <|im_end|>"
    assert tokenizer.encode(text).ids == byte_tokenizer.encode(text)
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_stopped_engine_recovers(remote):
    remote.process.send_signal(signal.SIGSTOP)
    time.sleep(1.0)
    remote.send(wire.Create(1, "p", "local", Account()))
    remote.process.send_signal(signal.SIGCONT)
    assert remote.generate(2, "weather", 1) == "It rains."


@pytest.mark.parametrize("delay_ms", [2600])
def test_links_live_on_during_a_long_step(remote):
    """Longer than the silence that counts as stuck: beats go on, and their counter says that no step ends."""
    peer = remote.hub.peer("engine")
    remote.send(
        wire.Create(1, "p", "local", Account()),
        wire.Append(1, 0, [65, 66]),
        wire.Forward(1, 0, [67], [wire.Output(0)]),
    )
    remote.until(lambda: any(step.acked >= 2 for step in remote.steps))
    started, seen = time.monotonic(), set()
    while time.monotonic() - started < 2.2:
        remote.transport.poll(0.05)
        assert not remote.hub.is_stuck(peer)
        if time.monotonic() - started > 1.0:
            seen.add(remote.hub.progress_of(peer))
    assert len(seen) == 1
    remote.until(lambda: any(step.outputs for step in remote.steps))


def test_an_engine_whose_name_was_taken_over_stops(remote, tmp_path):
    def refuse(incoming: Incoming[Join]) -> Joined:
        raise StaleEpoch("a newer incarnation has the name")

    hub = Hub(identity("kvstore", "kv"), time.monotonic)
    transport = Transport(hub)
    hub.on(Join, refuse)
    transport.bind("kvstore", f"ipc://{tmp_path}/kv.sock")
    deadline = time.monotonic() + 20.0
    try:
        while remote.process.poll() is None and time.monotonic() < deadline:
            transport.poll(0.05)
    finally:
        transport.close()
    assert remote.process.returncode == 0


def test_terminate_ends_at_once(remote):
    started = time.monotonic()
    remote.process.terminate()
    assert remote.process.wait(5) == 0
    assert time.monotonic() - started < 3


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ([], "no model given"),
        (["--model", "/nowhere"], "config.json"),
        (["--model", "scripted:/nowhere.json"], "/nowhere.json"),
        (["--model", "x", "--dtype", "int3"], "dtype"),
    ],
)
def test_bad_configuration_is_told_in_a_sentence(tmp_path, flags, reason):
    command = [sys.executable, "-m", "pie_engine", "--endpoint", f"ipc://{tmp_path}/e.sock", *flags]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, env=os.environ | {"PIE_HOME": str(tmp_path)}
    )
    assert done.returncode != 0
    assert reason in done.stderr
    assert "Traceback" not in done.stderr
