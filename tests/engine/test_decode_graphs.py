"""Which decodes are replayed, with what around them, and that replayed ones give the tokens of others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from pie_engine.kernels import decode_graphs
from pie_engine.kernels.decode_graphs import DecodeArrays, DecodeGraphs, size_of
from pie_engine.kernels.torch_attention import TorchAttention
from pie_engine.limits import Limits
from pie_engine.models.decode_pass import CudaGraph, DecodePass, Unrecorded
from pie_engine.models.model_device import ModelDevice
from pie_engine.models.tiny_config import shrink
from pie_engine.models.transformers_model import TransformersModel
from pie_engine.passes.batch import Batch
from pie_engine.passes.build import build
from pie_engine.passes.outputs import HiddenProbe, Output, Sampler
from pie_engine.passes.segment import Segment
from pie_wire.messages import engine as wire
from structlog.testing import capture_logs

PAGE, SCRATCH = 4, 99


@dataclass
class Recorded:
    """Stands for a recorded graph: its logits are the tokens it was given."""

    rows: int
    width: int
    replays: list[DecodeArrays] = field(default_factory=list)

    def replay(self, arrays: DecodeArrays) -> torch.Tensor:
        self.replays.append(arrays)
        return torch.from_numpy(arrays.tokens).float()[:, None]


@dataclass
class Recorder:
    made: list[Recorded] = field(default_factory=list)

    def __call__(self, rows: int, width: int) -> Recorded:
        self.made.append(Recorded(rows, width))
        return self.made[-1]


def decode(token: int, slot: int, pages: list[int], asked: bool = True, **options: Any) -> Segment:
    return Segment([token], [slot], slot, pages, [Output(0, slot + 1, Sampler())] if asked else [], **options)


def batch_of(*segments: Segment) -> Batch:
    return build(segments, page_size=PAGE, scratch_page=SCRATCH)


def many(count: int, slot: int = 2) -> Batch:
    return batch_of(*[decode(10 + n, slot, list(range(slot // PAGE + 1))) for n in range(count)])


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def graphs(recorder) -> DecodeGraphs:
    return DecodeGraphs(recorder, scratch_page=SCRATCH)


def test_a_batch_takes_the_next_larger_size(graphs, recorder):
    for count, slot in ((1, 2), (3, 2), (4, 31), (5, 32), (100, 400)):
        assert graphs.run(many(count, slot)) is not None
    assert [(made.rows, made.width) for made in recorder.made] == [(1, 8), (4, 8), (8, 16), (128, 128)]
    assert [len(made.replays) for made in recorder.made] == [1, 2, 1, 1]


def test_padding_reads_and_writes_the_scratch_page_only(graphs, recorder):
    given = graphs.run(
        batch_of(decode(5, 9, [7, 3, 1]), decode(6, 2, [4], asked=False), decode(8, 0, [2], write_kv=False))
    )
    assert given.tolist() == [[5.0], [8.0]]
    ((arrays,),) = [made.replays for made in recorder.made]
    assert arrays.tokens.tolist() == [5, 6, 8, 0]
    assert arrays.row_slots.tolist() == [9, 2, 0, 0]
    scratch = SCRATCH * PAGE
    assert arrays.write_slots.tolist() == [1 * PAGE + 1, 4 * PAGE + 2, scratch, scratch]
    assert arrays.pages[:, :3].tolist() == [[7, 3, 1], [4, SCRATCH, SCRATCH], [2, SCRATCH, SCRATCH], [SCRATCH] * 3]
    assert (arrays.pages[:, 3:] == SCRATCH).all()
    assert {array.dtype for array in (arrays.tokens, arrays.row_slots, arrays.pages)} == {np.dtype(np.int32)}


def test_what_no_graph_can_do_runs_otherwise(graphs, recorder):
    others = (
        batch_of(Segment([1, 2], [0, 1], 0, [1])),
        batch_of(decode(1, 3, [1], masks=[[(0, 2)]])),
        batch_of(decode(1, 3, [1], adapters=((1, 1.0),))),
        batch_of(Segment([1], [3], 3, [1], [Output(0, 4, HiddenProbe())])),
        many(129),
        many(1, slot=128 * PAGE),
    )
    assert [graphs.run(batch) for batch in others] == [None] * len(others)
    assert [size_of(batch) for batch in others] == [None] * len(others)
    assert not recorder.made


def test_the_least_recently_used_go(graphs, recorder, monkeypatch):
    monkeypatch.setattr(decode_graphs, "MOST_GRAPHS", 2)
    for count in (1, 2, 1, 4, 1, 2):
        graphs.run(many(count))
    assert [made.rows for made in recorder.made] == [1, 2, 4, 2]


def test_what_cannot_be_recorded_is_said_once_and_runs_otherwise():
    calls = []

    def refuse(rows: int, width: int) -> Recorded:
        calls.append(rows)
        raise RuntimeError("operation not permitted when stream is capturing")

    graphs = DecodeGraphs(refuse, scratch_page=SCRATCH)
    with capture_logs() as logs:
        assert [graphs.run(many(count)) for count in (1, 2, 1)] == [None] * 3
    assert calls == [1]
    assert [entry["reason"] for entry in logs] == ["operation not permitted when stream is capturing"]


# -- the pass that is recorded


def tiny(family: str, record: Callable[[DecodePass], Any] | None, device: str = "cpu") -> TransformersModel:
    config = shrink(getattr(transformers, f"{family}Config")())
    torch.manual_seed(0)
    plain = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager")
    return TransformersModel(plain.to(device), TorchAttention(), name=family, pack=False, record=record)


def generated(bench: Any, model: TransformersModel) -> list[list[int]]:
    """Runs of several lengths, forks, a prefix found, guesses, and contexts that lose their pages on the way."""
    model.allocate(16, 16)
    info = model.info
    engine = type(bench)(ModelDevice(model), Limits(16, 16, info.max_context, info.vocab_size))
    prompts = [[(3 + 7 * i + 11 * n) % info.vocab_size for i in range(1 + 13 * n)] for n in range(5)]
    contexts = [engine.create(ids) for ids in prompts]
    runs = [engine.open_run(context, 30, sampler=wire.SamplerSpec(0.8), seed=4) for context in contexts]
    engine.contexts += 1
    engine.send(wire.Fork(engine.contexts, contexts[3], 0, 35, "p"))
    runs.append(engine.open_run(engine.contexts, 20, speculation=wire.Speculation(ngram=1)))
    runs.append(engine.open_run(engine.create(prompts[4]), 9))
    engine.settle()
    assert engine.core.stats()["evictions"] > 0
    return [engine.runner.tokens[run] for run in runs]


@pytest.mark.parametrize("family", ["Llama", "Gemma2", "Mistral", "GptOss"])
def test_replayed_decodes_give_the_tokens_of_others(bench, family):
    """Plain, with soft caps, with windows, with sinks; each computed anew in place of recorded."""
    replays = []

    class Counted(Unrecorded):
        def replay(self, arrays: DecodeArrays) -> torch.Tensor:
            replays.append(arrays)
            return super().replay(arrays)

    expected = generated(bench, tiny(family, None))
    assert generated(bench, tiny(family, Counted)) == expected
    assert len(replays) > 20


@pytest.mark.gpu
@pytest.mark.parametrize("family", ["Llama", "Gemma2", "Mistral", "GptOss"])
def test_recorded_decodes_give_the_tokens_of_others(bench, family):
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    memory = torch.cuda.graph_pool_handle()
    expected = generated(bench, tiny(family, None, "cuda"))
    with capture_logs() as logs:
        given = generated(bench, tiny(family, lambda decode: CudaGraph(decode, memory), "cuda"))
    assert given == expected
    assert not [entry for entry in logs if "recorded" in entry["event"]]


def test_status_names_what_serves():
    assert tiny("Llama", Unrecorded).info.backend == "torch+graphs (unverified)"
    assert tiny("Llama", None).info.backend == "torch"
