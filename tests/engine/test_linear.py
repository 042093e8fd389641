"""Our linear layers compute what torch's do, and a row's result depends on the row alone."""

from __future__ import annotations

import pytest
import torch
from pie_engine.kernels import native
from pie_engine.kernels.linear import LinearKernel, WeightMemory
from pie_engine.kernels.native_build import find_compiler
from pie_engine.models import packed_linear
from pie_engine.models.packed_linear import LinearRoute, PackedLinear, linear_route, pack_linears
from torch import nn

ISAS = [isa for isa in ("avx2", "avx512bf16") if isa in {native.best_isa(native._processor_flags(), isa)}]
SHAPES = [(1, 1), (37, 5), (64, 48), (100, 400), (33, 769)]
ROWS = [*range(1, 18), 28, 29, 43, 70]


@pytest.fixture(scope="module", params=ISAS)
def kernels(request) -> native.Native:
    if find_compiler() is None:
        pytest.skip("no C++ compiler")
    return native.load_from(native.pie_home() / "native", request.param)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
@pytest.mark.parametrize("with_bias", [False, True])
def test_equals_the_plain_product(kernels, dtype, outputs, inputs, with_bias):
    weight = torch.randn(outputs, inputs, dtype=dtype)
    bias = torch.randn(outputs, dtype=dtype) if with_bias else None
    linear = LinearKernel(kernels).prepare(weight, bias, WeightMemory())
    rows = torch.randn(70, inputs, dtype=dtype)
    expected = rows.double() @ weight.double().T + (bias.double() if bias is not None else 0.0)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2

    for count in ROWS:
        found = linear(rows[:count], 2)
        assert found.dtype == dtype
        assert torch.allclose(found.double(), expected[:count], rtol=tolerance, atol=tolerance * inputs**0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_alone_and_among_others_is_the_same_to_the_bit(kernels, dtype):
    linear = LinearKernel(kernels).prepare(torch.randn(200, 1000, dtype=dtype), None, WeightMemory())
    rows = torch.randn(600, 1000, dtype=dtype)
    together = linear(rows, 3)

    for count in ROWS:
        for threads in (1, 2):
            assert torch.equal(linear(rows[:count], threads), together[:count])
            assert torch.equal(linear(rows[-count:], threads), together[-count:])


def test_rows_of_any_shape(kernels):
    linear = LinearKernel(kernels).prepare(torch.eye(16), None, WeightMemory())
    wide = torch.randn(2, 3, 40)
    spread = wide[..., 8:24]
    columns = wide[0].T[:16].T

    assert torch.equal(linear(spread, 1), spread)
    assert torch.equal(linear(columns, 1), columns)
    assert linear(torch.empty(0, 16), 1).shape == (0, 16)


def test_weights_of_several_sizes_share_memory(kernels):
    memory = WeightMemory()
    weights = [torch.randn(outputs, 64) for outputs in (3, 1000, 17)]
    linears = [LinearKernel(kernels).prepare(weight, None, memory) for weight in weights]
    rows = torch.randn(4, 64)

    for weight, linear in zip(weights, linears, strict=True):
        assert torch.allclose(linear(rows, 1), rows @ weight.T, atol=1e-4)


@pytest.mark.parametrize("limit", [None, 0, 8])
def test_packed_layers_replace_plain_ones(kernels, limit):
    if limit is not None and not packed_linear._has_onednn():
        pytest.skip("torch has no oneDNN for bfloat16")
    plain = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Sequential(nn.Linear(96, 10, bias=False))).bfloat16()
    rows = torch.randn(2, 12, 64).bfloat16()
    with torch.inference_mode():
        expected = [plain(rows), plain(rows[:, :2])]
        replaced = pack_linears(plain, LinearRoute(kernels, limit))
        found = [plain(rows), plain(rows[:, :2])]

    assert replaced == 2
    assert [type(module) for module in plain.modules()].count(PackedLinear) == 2
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.allclose(ours, theirs, atol=3e-2)


def test_routes(kernels, monkeypatch):
    monkeypatch.setattr(packed_linear, "load", lambda: kernels)
    monkeypatch.setattr(packed_linear, "_measure", lambda native: 64)
    monkeypatch.setattr(packed_linear, "_has_onednn", lambda: True)
    assert linear_route(torch.float32) == LinearRoute(kernels, None)
    assert linear_route(torch.bfloat16) == LinearRoute(kernels, 64)
    assert linear_route(torch.bfloat16).name == f"native-{kernels.isa}+onednn"
    assert linear_route(torch.float16) is None

    monkeypatch.setattr(packed_linear, "load", lambda: None)
    assert linear_route(torch.float32) is None
    assert linear_route(torch.bfloat16) == LinearRoute(None, 0)

    monkeypatch.setattr(packed_linear, "_has_onednn", lambda: False)
    assert linear_route(torch.bfloat16) is None


@pytest.mark.parametrize(("times", "limit"), [({16: 2.0, 64: 1.5, 256: 1.2}, None), ({16: 1.5, 64: 0.8, 256: 0.3}, 64)])
def test_onednn_serves_from_where_it_is_clearly_faster(kernels, monkeypatch, times, limit):
    monkeypatch.setattr(packed_linear, "_share", lambda theirs, ours, rows: times[len(rows)])

    assert packed_linear._measure(kernels) == limit
