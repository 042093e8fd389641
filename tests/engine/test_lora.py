"""LoRA in passes, against the same model with the adapters merged into its weights."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
import transformers
from lora_files import ATTENTION, merge, write_adapter
from pie_engine.kernels.torch_attention import TorchAttention
from pie_engine.limits import Limits
from pie_engine.models import lora
from pie_engine.models.model_device import ModelDevice
from pie_engine.models.transformers_model import TransformersModel
from pie_engine.passes.build import build
from pie_engine.passes.outputs import LogitsProbe, Output
from pie_engine.passes.segment import AdapterSlots, Segment
from pie_wire.errors import DeviceError
from pie_wire.messages import engine as wire
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

VOCAB = 512
PAGES = 64


def tiny(family: str = "LlamaConfig", **fields: int) -> PreTrainedModel:
    torch.manual_seed(5)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_hidden_layers": 2}
    config = getattr(transformers, family)(
        **sizes, num_key_value_heads=2, vocab_size=VOCAB, initializer_range=0.2, head_dim=16, **fields
    )
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()


@dataclass
class Adapted:
    """A plain model, and ours of it with adapters `one` (rank 4), `two` (rank 3, attention only) in slots 1 and 2."""

    plain: PreTrainedModel
    folder: Path
    dtype: torch.dtype = torch.float32
    pack: bool = True
    scaling: dict[int, float] = field(default_factory=lambda: {1: 2.0, 2: 8 / 3**0.5})

    def __post_init__(self) -> None:
        self.folders = {
            1: write_adapter(self.folder / "one", self.plain, seed=1),
            2: write_adapter(
                self.folder / "two", self.plain, seed=2, rank=3, targets=ATTENTION, lora_alpha=8, use_rslora=True
            ),
        }
        model = copy.deepcopy(self.plain).to(self.dtype)
        self.ours = TransformersModel(model, TorchAttention(), name="tiny", pack=self.pack)
        self.ours.allocate(PAGES, 16)
        for slot, folder in self.folders.items():
            self.ours.keep_adapter(slot, self.ours.read_adapter(str(folder), 1 << 30))

    def merged(self, adapters: AdapterSlots) -> PreTrainedModel:
        model = copy.deepcopy(self.plain)
        for slot, weight in adapters:
            merge(model, self.folders[slot], self.scaling[slot], weight)
        return model

    def expected(self, tokens: list[int], adapters: AdapterSlots) -> Tensor:
        with torch.inference_mode():
            return self.merged(adapters)(torch.tensor([tokens])).logits[0]

    def run(self, requests: list[tuple[list[int], AdapterSlots]]) -> list[Tensor]:
        """Logits of all rows of each request, in one pass."""
        segments = [
            Segment(
                tokens,
                range(len(tokens)),
                0,
                range(4 * index, 4 * index + 4),
                [Output(row, row + 1, LogitsProbe()) for row in range(len(tokens))],
                adapters=adapters,
            )
            for index, (tokens, adapters) in enumerate(requests)
        ]
        logits = self.ours.forward(build(segments, page_size=16, scratch_page=PAGES)).logits
        return list(logits.split([len(tokens) for tokens, _ in requests]))


def ids(length: int, seed: int) -> list[int]:
    return torch.randint(3, VOCAB, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def close(ours: Tensor, theirs: Tensor) -> bool:
    return torch.allclose(ours, theirs, atol=2e-4 * max(1.0, float(theirs.abs().max())))


ONE: AdapterSlots = ((1, 1.0),)
BOTH: AdapterSlots = ((1, 0.5), (2, -1.5))
SETS: tuple[AdapterSlots, ...] = ((), ONE, BOTH, ((2, 1.0),), ((1, 0.25),))


@pytest.fixture(scope="module", params=[True, False], ids=["native", "hooks"])
def adapted(tmp_path_factory, request) -> Adapted:
    """By the native pass where there is a compiler, and by hooks."""
    return Adapted(tiny(), tmp_path_factory.mktemp("adapters"), pack=request.param)


@pytest.mark.parametrize("adapters", SETS)
def test_one_set_equals_merged_weights(adapted, adapters):
    tokens = ids(21, 3)
    (ours,) = adapted.run([(tokens, adapters)])
    assert close(ours, adapted.expected(tokens, adapters))
    if adapters:
        assert not close(ours, adapted.expected(tokens, ())), "the adapter has no effect to compare"


@pytest.mark.parametrize("family", ["Qwen2Config", "Gemma2Config"])
def test_other_families(tmp_path, family):
    adapted = Adapted(tiny(family), tmp_path)
    tokens = ids(9, 3)
    (ours,) = adapted.run([(tokens, BOTH)])
    assert close(ours, adapted.expected(tokens, BOTH))


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4), (1, 1, 1), (2, 0, 1, 0, 2, 1), (0, 2), (1, 0)])
def test_mixed_sets_in_one_pass_equal_each_alone(adapted, monkeypatch, order, together):
    """Rows of one set next to each other or not, computed in one part or several."""
    monkeypatch.setattr(lora, "_PART_FLOPS", 1e12 if together else -1.0)
    requests = [(ids(3 + 2 * index, index), SETS[which]) for index, which in enumerate(order)]
    for (tokens, adapters), ours in zip(requests, adapted.run(requests), strict=True):
        assert close(ours, adapted.expected(tokens, adapters))


def test_rows_without_adapters_are_not_touched(adapted):
    plain = ids(7, 1)
    (alone,) = adapted.run([(plain, ()), (ids(5, 2), ())])[:1]
    (mixed,) = adapted.run([(plain, ()), (ids(5, 2), ONE)])[:1]
    # A pass without adapters may be computed by other code, in another order.
    assert torch.allclose(alone, mixed, atol=1e-5 * float(alone.abs().max()))


def test_an_overflow_stays_with_its_rows(adapted, tmp_path):
    """An adapter of huge numbers spoils the rows that use it and no others of the pass."""
    folder = write_adapter(tmp_path / "huge", adapted.plain, seed=3, size=1e30)
    adapted.ours.keep_adapter(9, adapted.ours.read_adapter(str(folder), 1 << 30))
    good, bad = adapted.run([(ids(7, 1), ONE), (ids(7, 2), ((9, 1e30),))])
    adapted.ours.drop_adapter(9)
    assert close(good, adapted.expected(ids(7, 1), ONE))
    assert not bool(bad.isfinite().all())


def test_patterns_and_one_regex(tmp_path):
    plain = tiny()
    folder = write_adapter(
        tmp_path / "patterns",
        plain,
        rank_pattern={"layers.0.self_attn.q_proj": 7, "down_proj": 2},
        alpha_pattern={"v_proj": 1.0},
        target_modules=r"model\.layers\.\d+\.(self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj",
    )
    ours = TransformersModel(copy.deepcopy(plain), TorchAttention(), name="tiny")
    ours.allocate(8, 16)
    adapter = ours.read_adapter(str(folder), 1 << 30)
    assert adapter.facts.rank == 7
    ours.keep_adapter(1, adapter)
    merge(plain, folder, 2.0, **{"layers.0.self_attn.q_proj": 8 / 7, "down_proj": 4.0, "v_proj": 0.25})
    tokens = ids(9, 3)
    outputs = [Output(8, 9, LogitsProbe())]
    batch = build([Segment(tokens, range(9), 0, [0], outputs, adapters=ONE)], page_size=16, scratch_page=8)
    with torch.inference_mode():
        assert close(ours.forward(batch).logits[0], plain(torch.tensor([tokens])).logits[0, -1])


def test_inputs_that_are_not_the_batchs_rows_are_refused(adapted):
    batch = build([Segment([1, 2], range(2), 0, [0], adapters=ONE)], page_size=16, scratch_page=PAGES)
    store = lora.LoraStore()
    store.keep(1, adapted.ours.read_adapter(str(adapted.folders[1]), 1 << 30))
    passing = store.begin(batch, torch.device("cpu"))
    with pytest.raises(DeviceError, match="got 3"):
        passing.add(torch.zeros(3, 64), ("model.layers.0.self_attn.q_proj", torch.zeros(3, 64)))


def test_outputs_may_be_columns_of_a_larger_tensor(adapted):
    store = lora.LoraStore()
    adapter = adapted.ours.read_adapter(str(adapted.folders[1]), 1 << 30)
    store.keep(1, adapter)
    batch = build([Segment([1, 2], range(2), 0, [0], adapters=ONE)], page_size=16, scratch_page=PAGES)
    rows, fused = torch.randn(2, 64), torch.zeros(2, 128)
    names = [f"model.layers.0.self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj")]
    columns = (fused[:, :64], fused[:, 64:96], fused[:, 96:])
    store.begin(batch, torch.device("cpu")).add(rows, *zip(names, columns, strict=True))
    layers = [adapter.layers[name] for name in names]
    assert torch.allclose(fused, torch.cat([rows @ layer.a.T @ layer.b for layer in layers], dim=1), atol=1e-5)


# -- through the whole engine


def bench_of(bench, adapted: Adapted, pages: int = PAGES):
    adapted.ours.allocate(pages, 16)
    made = type(bench)(ModelDevice(adapted.ours), Limits(pages, 16, 2048, adapted.ours.info.vocab_size))
    for name, slot in (("one", 1), ("two", 2)):
        assert isinstance(made.ask(wire.LoadAdapter(name, str(adapted.folders[slot]))), wire.AdapterInfo)
    return made


def greedy(model: PreTrainedModel, tokens: list[int], count: int) -> list[int]:
    said: list[int] = []
    with torch.inference_mode():
        for _ in range(count):
            said.append(int(model(torch.tensor([tokens + said])).logits[0, -1].argmax()))
    return said


@pytest.fixture
def fresh(tmp_path) -> Adapted:
    """One whose slots the engine gives."""
    made = Adapted(tiny(), tmp_path)
    for slot in (1, 2):
        made.ours.drop_adapter(slot)
    return made


def test_greedy_tokens_of_mixed_runs_equal_merged_models(fresh, bench):
    engine = bench_of(bench, fresh)
    named = {1: "one", 2: "two"}
    runs: dict[int, tuple[list[int], AdapterSlots]] = {}
    for index, adapters in enumerate(SETS):
        context, tokens = engine.create(), ids(5 + 6 * index, index)
        uses = [wire.AdapterUse(named[slot], weight) for slot, weight in adapters]
        engine.send(wire.SetAdapters(context, 0, uses), wire.Append(context, 0, tokens))
        runs[engine.open_run(context, 12)] = (tokens, adapters)
    engine.settle()
    for run, (tokens, adapters) in runs.items():
        assert engine.runner.tokens[run] == greedy(fresh.merged(adapters), tokens, 12)


def test_recomputed_under_pressure_with_the_adapters_of_each_token(fresh, bench):
    """Contexts that switch adapters in the middle lose their KV and come back with the same tokens."""

    def said(pages: int) -> list[list[int]]:
        for slot in list(fresh.ours._lora._adapters):
            fresh.ours.drop_adapter(slot)
        engine = bench_of(bench, fresh, pages)
        runs: list[int] = []
        for index in range(4):
            context = engine.create(ids(21, index))
            engine.send(
                wire.SetAdapters(context, 0, [wire.AdapterUse("one")]),
                wire.Append(context, 0, ids(20, index + 9)),
                wire.SetAdapters(context, 0, [wire.AdapterUse("two", 2.0)]),
            )
            runs.append(engine.open_run(context, 24))
        engine.settle()
        assert (engine.core.stats()["evictions"] > 0) == (pages < PAGES)
        return [engine.runner.tokens[run] for run in runs]

    assert said(PAGES) == said(9)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_smollm2(smollm2, bench, tmp_path, dtype):
    """float32: greedy tokens of none, one and two adapters in one batch are those of merged models. bfloat16: the same
    most likely token wherever float32 is sure of it."""
    plain = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32).eval()
    adapted = Adapted(plain, tmp_path, getattr(torch, dtype))
    for slot in (1, 2):
        adapted.ours.drop_adapter(slot)
    engine = bench_of(bench, adapted)
    cases: list[AdapterSlots] = [(), ONE, BOTH]
    named = {1: "one", 2: "two"}
    tokens, count = ids(30, 1), 6
    numbers: list[int] = []
    expected: list[Tensor] = []
    for adapters in cases:
        for slot, weight in adapters:
            merge(plain, adapted.folders[slot], adapted.scaling[slot], weight)
        said = greedy(plain, tokens, count)
        with torch.inference_mode():
            expected.append(plain(torch.tensor([tokens + said])).logits[0, len(tokens) - 1 :])
        for slot, weight in adapters:
            merge(plain, adapted.folders[slot], adapted.scaling[slot], -weight)
        context = engine.create()
        uses = [wire.AdapterUse(named[slot], weight) for slot, weight in adapters]
        outputs = [wire.Output(row, "top", top=1) for row in range(len(tokens) - 1, len(tokens) + count)]
        engine.send(wire.SetAdapters(context, 0, uses), wire.Forward(context, 0, tokens + said, outputs))
        numbers.append(engine.runner.next_op - 1)
    engine.settle()
    for number, logits in zip(numbers, expected, strict=True):
        for slot, row in zip(engine.runner.outputs[number], logits, strict=True):
            best = row.topk(2).values
            if dtype == "float32" or best[0] - best[1] > 0.7:
                assert slot.ids[0] == int(row.argmax())
