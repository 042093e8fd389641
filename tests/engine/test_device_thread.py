"""A model that fails on the engine's own device thread: who is told, and who notices nothing."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pie_engine import service
from pie_engine.config import EngineConfig
from pie_engine.models import byte_tokenizer
from pie_engine.models.base import ModelOutput
from pie_engine.models.scripted import ScriptedModel
from pie_engine.passes.batch import Batch
from pie_wire.hub import Hub, Incoming
from pie_wire.messages import engine as wire
from pie_wire.messages.common import Account
from pie_wire.messages.runner import RunEnd, Step
from pie_wire.process import Shutdown, identity
from pie_wire.transport import Transport

FAULT, NAN = byte_tokenizer.encode("!?")
STARTUP = 60.0


@dataclass
class Served:
    """A runner's end of a link to an engine in this process."""

    hub: Hub
    transport: Transport
    threads: set[str]
    next_op: int = 1
    acked: int = 0
    tokens: dict[int, list[int]] = field(default_factory=dict)
    ends: dict[int, RunEnd] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)

    def send(self, *ops: wire.Op) -> int:
        peer = self.hub.peer("engine")
        assert peer is not None
        self.hub.send(peer, wire.Ops(self.next_op, list(ops)))
        self.next_op += len(ops)
        return self.next_op - 1

    def until(self, condition, seconds: float = 20.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "nothing came in time"
            self.transport.poll(0.05)

    def keep(self, incoming: Incoming[Step]) -> None:
        step, at = incoming.message, 0
        self.acked = step.acked
        for run, count in zip(step.runs, step.counts, strict=True):
            self.tokens.setdefault(run, []).extend(step.tokens[at : at + count])
            at += count
        self.ends |= {end.run: end for end in step.ends}
        self.failed |= {failure.op: failure.error.message for failure in step.failed}


@pytest.fixture
def served(tmp_path: Path, monkeypatch) -> Iterator[Served]:
    script = tmp_path / "demo.json"
    script.write_text(json.dumps({"rules": [{"replies": ["abcdefghijkl"]}], "delay_ms": 5}))
    threads: set[str] = set()
    right = ScriptedModel.forward

    def forward(model: ScriptedModel, batch: Batch) -> ModelOutput:
        threads.add(threading.current_thread().name)
        if FAULT in batch.tokens:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        given = right(model, batch)
        for place, row in enumerate(batch.logit_rows.tolist()):
            if batch.tokens[row] == NAN:
                given.logits[place] = float("nan")
        return given

    monkeypatch.setattr(ScriptedModel, "forward", forward)
    monkeypatch.setenv("PIE_NATIVE", "0")
    endpoint = f"ipc://{tmp_path}/engine.sock"
    config = EngineConfig(
        model=f"scripted:{script}",
        endpoint=endpoint,
        kvstore_endpoint=f"ipc://{tmp_path}/kv.sock",
        kv_memory="64MiB",
    )
    shutdown: list[Shutdown] = []

    def run() -> None:
        shutdown.append(Shutdown())
        service.serve(config, shutdown[0])

    engine = threading.Thread(target=run, name="engine")
    engine.start()
    hub = Hub(identity("runner", "r0"), time.monotonic)
    served = Served(hub, Transport(hub), threads)
    hub.on(Step, served.keep)
    served.transport.dial("engine", endpoint)
    try:
        served.until(lambda: hub.peer("engine") is not None, STARTUP)
        yield served
    finally:
        served.transport.close()
        shutdown[0].requested.set()
        engine.join(10)
    assert not engine.is_alive()


def begin(context: int, text: str, run: int, window: int = 100) -> list[wire.Op]:
    return [
        wire.Create(context, "p", "local", Account(salt=bytes([context]))),
        wire.Append(context, 0, byte_tokenizer.encode(text)),
        wire.OpenRun(context, 0, run, wire.SamplerSpec(), 0, list(byte_tokenizer.EOS_IDS), 64, window),
    ]


def said(served: Served, run: int) -> str:
    return byte_tokenizer.decode(served.tokens.get(run, []))


def test_a_failed_pass_fails_the_requests_in_it_with_the_cause(served):
    served.send(*begin(1, "hello", 1, window=3))
    served.until(lambda: len(served.tokens.get(1, [])) == 3)
    number = served.send(
        *begin(2, "oh!", 2),
        *begin(3, "hello", 3),
        wire.Create(4, "p", "local", Account()),
        wire.Forward(4, 0, byte_tokenizer.encode("ah"), [wire.Output(1)]),
    )
    served.until(lambda: {2, 3} <= set(served.ends) and number in served.failed)
    for run in (2, 3):
        assert served.ends[run].error.code == "device_error"
        assert "RuntimeError: CUDA error: an illegal memory access" in served.ends[run].error.message
    assert "an illegal memory access" in served.failed[number]
    assert 1 not in served.ends
    served.send(wire.Consume(1, 1, 3), wire.CloseRun(3, 3, 0), wire.PauseRun(1, 1), wire.ResumeRun(1, 1))
    served.send(wire.OpenRun(3, 0, 4, wire.SamplerSpec(), 0, list(byte_tokenizer.EOS_IDS), 64, 100))
    served.until(lambda: 4 in served.ends and len(served.tokens[1]) == 6)
    assert said(served, 4) == "abcdefghijkl"
    assert said(served, 1) == "abcdef"
    assert served.threads == {"pie-device"}


def test_logits_that_are_no_numbers_fail_the_request_that_reads_them(served):
    served.send(*begin(1, "what?", 1), *begin(2, "hello", 2))
    served.until(lambda: {1, 2} <= set(served.ends))
    assert served.ends[1].error.code == "device_error"
    assert "not numbers" in served.ends[1].error.message
    assert served.ends[2].reason == "stop"
    assert said(served, 2) == "abcdefghijkl"
