"""What FlashInfer is asked for; on a GPU also what it answers, against the torch twin."""

from __future__ import annotations

import pytest
import torch
from pie_engine.kernels.choice import available_attentions
from pie_engine.kernels.flashinfer_attention import FlashInferAttention, tables
from pie_engine.kernels.kv_pool import KvPool
from pie_engine.kernels.torch_attention import TorchAttention
from pie_engine.passes.build import build
from pie_engine.passes.segment import Segment

SEGMENTS = [
    Segment([1], [16], 16, [5, 2, 7]),
    Segment([1] * 20, range(12, 32), 12, [0, 3]),
    Segment([1], [3], 3, [1], write_kv=False),
]


class Planned:
    """Stands for FlashInfer's wrapper and remembers what it was told."""

    def __init__(self, workspace, layout) -> None:
        self.layout = layout
        self.plans = []

    def plan(self, *arrays, **options):
        self.plans.append((arrays, options))

    def run(self, query, cache):
        assert [tuple(part.shape) for part in cache] == [(10, 2, 16, 64)] * 2
        return torch.zeros_like(query)


def pool(device: str = "cpu", dtype: torch.dtype = torch.bfloat16) -> KvPool:
    made = KvPool(9, 2, 2, 64, 16, dtype, torch.device(device))
    made.tensor.copy_(torch.randn(made.tensor.shape, generator=torch.Generator().manual_seed(0)))
    return made


def test_tables_leave_out_pages_behind_the_last_row():
    rows, pointers, pages, last = tables(build(SEGMENTS, page_size=16, scratch_page=9))
    assert rows.tolist() == [0, 1, 21, 22]
    assert pointers.tolist() == [0, 2, 4, 5]
    assert pages.tolist() == [5, 2, 0, 3, 1]
    assert last.tolist() == [1, 16, 4]


def test_it_is_planned_once_for_equal_layers():
    attention = FlashInferAttention(Planned)
    going = attention.begin(build(SEGMENTS, page_size=16, scratch_page=9), pool())
    query, key = torch.randn(22, 6, 64).bfloat16(), torch.randn(22, 2, 64).bfloat16()
    for window in (None, None, 8):
        assert going.attend(1, query, key, key, scale=0.125, window=window).shape == query.shape
    plans = attention._made.plans
    assert attention._made.layout == "HND"
    assert [options["window_left"] for _, options in plans] == [-1, 7]
    assert plans[0][0][4:] == (6, 2, 64, 16)


def test_what_it_cannot_do_goes_to_the_twin():
    attention = FlashInferAttention(Planned)
    masked = [Segment([1], [3], 3, [1], masks=[[(0, 2)]])]
    assert type(attention.begin(build(masked, page_size=16, scratch_page=9), pool())) is type(
        TorchAttention().begin(build(masked, page_size=16, scratch_page=9), pool())
    )
    batch = build(SEGMENTS, page_size=16, scratch_page=9)
    assert not isinstance(attention.begin(batch, pool(dtype=torch.float32)), type(attention.begin(batch, pool())))


@pytest.mark.gpu
@pytest.mark.parametrize("options", [{}, {"window": 8}, {"softcap": 20.0}])
def test_it_equals_the_twin(options):
    best = available_attentions("cuda")[0]
    if not torch.cuda.is_available() or best.name == "torch":
        pytest.skip("no GPU, or no FlashInfer")
    batch = build(SEGMENTS, page_size=16, scratch_page=9)
    query, key, value = (torch.randn(22, heads, 64, device="cuda").bfloat16() for heads in (6, 2, 2))
    answers = [
        attention.begin(batch, pool("cuda")).attend(1, query, key, value, scale=0.125, **options).float()
        for attention in (best, TorchAttention())
    ]
    assert torch.allclose(*answers, atol=2e-2)
