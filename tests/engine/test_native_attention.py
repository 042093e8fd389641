"""The native attention kernels against attention written out in float64, and against the torch twin."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pie_engine.kernels import native
from pie_engine.kernels.kv_pool import KvPool
from pie_engine.kernels.native_attention import NativeAttention
from pie_engine.kernels.torch_attention import TorchAttention
from pie_engine.passes.batch import Batch
from pie_engine.passes.build import build
from pie_engine.passes.segment import Segment
from pie_wire.errors import InternalError


@pytest.fixture(scope="module", params=["best", "avx2"])
def kernels(request) -> native.Native:
    """The library for this processor, and the one for older ones."""
    if request.param == "best":
        found = native.load()
        if found is None:
            pytest.skip("no native kernels here")
        return found
    if native.best_isa(native._processor_flags(), "avx2") is None:
        pytest.skip("this processor has no AVX2")
    try:
        return native.load_from(native.pie_home() / "native", "avx2")
    except native.BuildError as error:
        pytest.skip(str(error))


@dataclass
class Case:
    """One pass over one layer, with a pool full of numbers."""

    page_size: int
    kv_heads: int
    share: int
    dim: int
    dtype: torch.dtype
    segments: list[Segment]
    pages: int
    seed: int
    threads: int = 1
    options: dict = field(default_factory=dict)

    def batch(self, segments: list[Segment] | None = None) -> Batch:
        return build(segments or self.segments, page_size=self.page_size, scratch_page=self.pages)

    def pool(self) -> KvPool:
        pool = KvPool(self.pages, 2, self.kv_heads, self.dim, self.page_size, self.dtype)
        chance = torch.Generator().manual_seed(self.seed)
        pool.tensor.copy_(torch.randn(pool.tensor.shape, generator=chance))
        return pool

    def inputs(self, rows: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Query, key and value, as parts of one matrix."""
        heads = self.kv_heads * self.share
        chance = torch.Generator().manual_seed(self.seed + 1)
        together = torch.randn(rows, heads + 2 * self.kv_heads, self.dim, generator=chance).to(self.dtype)
        return together.split([heads, self.kv_heads, self.kv_heads], dim=1)

    def run(self, attention, batch: Batch, inputs, pool: KvPool | None = None) -> torch.Tensor:
        torch.set_num_threads(self.threads)
        try:
            return attention.begin(batch, pool or self.pool()).attend(1, *inputs, scale=self.dim**-0.5, **self.options)
        finally:
            torch.set_num_threads(1)

    def dense(self, batch: Batch, inputs, pool: KvPool) -> torch.Tensor:
        """The definition, in float64, after the kernel has stored keys and values in `pool`."""
        query = inputs[0].double()
        window, softcap, sinks = (self.options.get(name) for name in ("window", "softcap", "sinks"))
        result = torch.zeros(query.shape, dtype=torch.float64)
        for segment in range(batch.segments):
            table = batch.pages[batch.page_ptr[segment] : batch.page_ptr[segment + 1]].tolist()
            keys = pool.keys(1)[table].transpose(1, 2).reshape(-1, self.kv_heads, self.dim).double()
            values = pool.values(1)[table].transpose(1, 2).reshape(-1, self.kv_heads, self.dim).double()
            for row in range(batch.segment_rows[segment], batch.segment_rows[segment + 1]):
                seen = np.zeros(len(keys), dtype=bool)
                for start, end in batch.intervals[batch.interval_ptr[row] : batch.interval_ptr[row + 1]]:
                    seen[start:end] = True
                if window:
                    seen[: max(0, int(batch.row_slots[row]) - window + 1)] = False
                slots = torch.from_numpy(seen.nonzero()[0])
                if not len(slots):
                    continue
                picked = keys[slots].repeat_interleave(self.share, dim=1)
                scores = torch.einsum("hd,shd->hs", query[row], picked) * self.dim**-0.5
                if softcap:
                    scores = softcap * torch.tanh(scores / softcap)
                if sinks is not None:
                    scores = torch.cat([scores, sinks.double()[:, None]], dim=1)
                weights = torch.softmax(scores, dim=1)[:, : len(slots)]
                result[row] = torch.einsum("hs,shd->hd", weights, values[slots].repeat_interleave(self.share, dim=1))
        return result


def tolerance(dtype: torch.dtype) -> float:
    return 2e-5 if dtype == torch.float32 else 2e-2


@st.composite
def cases(draw) -> Case:
    page_size = draw(st.sampled_from([1, 2, 3, 5, 8, 16, 32]))
    kv_heads, share = draw(st.integers(1, 3)), draw(st.sampled_from([1, 2, 3, 4, 5, 7, 8, 12]))
    seed = draw(st.integers(0, 2**20))
    chance = np.random.default_rng(seed)
    shared_slots = draw(st.sampled_from([0, 0, 64, 130, 200]))
    prefix_pages = shared_slots // page_size
    specs = draw(
        st.lists(
            st.tuples(st.integers(0, 260), st.sampled_from([1, 1, 1, 2, 9, 40]), st.booleans()), min_size=1, max_size=8
        )
    )
    custom = draw(st.booleans())
    sizes = [first + count for first, count, _ in specs]
    total = prefix_pages + sum(-(-size // page_size) for size in sizes) + 8
    free = chance.permutation(total).tolist()
    prefix = [free.pop() for _ in range(prefix_pages)]
    segments = []
    for own, count, shares in specs:
        # What it writes lies behind the prefix, in pages of its own.
        pages = list(prefix) if shares else []
        first = own + len(pages) * page_size
        size = first + count
        if -(-size // page_size) - len(pages) > len(free):
            continue
        pages += [free.pop() for _ in range(-(-size // page_size) - len(pages))]
        masks = [_mask(chance, slot) for slot in range(first, size)] if custom and chance.random() < 0.7 else None
        segments.append(
            Segment([1] * count, range(first, size), first, pages, masks=masks, write_kv=bool(chance.random() < 0.9))
        )
    if not segments:
        segments = [Segment([1], [0], 0, [free.pop()])]
    options: dict = {}
    if draw(st.booleans()):
        options["window"] = draw(st.sampled_from([1, 5, 64, 100, 1000]))
    if draw(st.booleans()):
        options["softcap"] = draw(st.sampled_from([1.0, 30.0]))
    if draw(st.booleans()):
        options["sinks"] = torch.from_numpy(chance.normal(size=kv_heads * share).astype(np.float32))
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16]))
    dim = draw(st.sampled_from([16, 32, 48, 64, 80, 112, 128]))
    return Case(page_size, kv_heads, share, dim, dtype, segments, total, seed, draw(st.integers(1, 3)), options)


def _mask(chance: np.random.Generator, slot: int) -> list[tuple[int, int]]:
    """Nothing, a sink with a window, many small intervals, or some in any order that overlap."""
    kind = chance.integers(5)
    if kind == 0:
        return []
    if kind == 1:
        return [(0, min(2, slot + 1)), (max(0, slot - 70), slot + 1)]
    if kind == 2:
        return [(at, min(at + 1, slot + 1)) for at in range(0, slot + 1, 3)]
    if kind == 3:
        ends = chance.integers(0, slot + 2, size=(4, 2))
        return [(int(min(pair)), int(max(pair))) for pair in ends]
    return [(0, slot + 1)]


@given(case=cases())
@settings(max_examples=40)
def test_equals_the_definition(kernels, case):
    batch = case.batch()
    pool = case.pool()
    inputs = case.inputs(batch.rows)
    ours = case.run(NativeAttention(kernels), batch, inputs, pool)
    expected = case.dense(batch, inputs, pool)
    assert torch.allclose(ours.double(), expected, atol=tolerance(case.dtype), rtol=tolerance(case.dtype))


@given(case=cases())
@settings(max_examples=20)
def test_equals_the_twin(kernels, case):
    batch = case.batch()
    inputs = case.inputs(batch.rows)
    pools = [case.pool(), case.pool()]
    ours = case.run(NativeAttention(kernels), batch, inputs, pools[0])
    twins = case.run(TorchAttention(), batch, inputs, pools[1])
    assert torch.allclose(ours.float(), twins.float(), atol=2 * tolerance(case.dtype), rtol=tolerance(case.dtype))
    assert torch.equal(pools[0].tensor[: case.pages], pools[1].tensor[: case.pages])


@given(case=cases())
@settings(max_examples=40)
def test_a_row_gets_the_same_alone_and_in_any_company(kernels, case):
    """Bit for bit, in both number formats: with and without shared prefixes, on any number of threads."""
    batch = case.batch()
    inputs = case.inputs(batch.rows)
    together = case.run(NativeAttention(kernels), batch, inputs)
    case.threads = 1
    for index, segment in enumerate(case.segments):
        rows = slice(*batch.segment_rows[index : index + 2])
        mine = tuple(part[rows] for part in inputs)
        pool = case.pool()
        # Its neighbours' rows are in the pool as they were when all ran together.
        case.run(NativeAttention(kernels), batch, inputs, pool)
        alone = case.run(NativeAttention(kernels, shares=False), case.batch([segment]), mine, pool)
        assert torch.equal(together[rows], alone)


def test_rows_of_a_chunk_equal_rows_one_by_one(kernels):
    case = Case(16, 2, 3, 64, torch.float32, [Segment([1] * 100, range(150, 250), 150, list(range(16)))], 20, 3)
    batch, pool = case.batch(), case.pool()
    inputs = case.inputs(batch.rows)
    together = case.run(NativeAttention(kernels), batch, inputs, pool)
    for row in (0, 1, 41, 42, 43, 99):
        one = case.batch([Segment([1], [150 + row], 150 + row, list(range(16)))])
        alone = case.run(NativeAttention(kernels), one, tuple(part[row : row + 1] for part in inputs), pool)
        assert torch.equal(together[row : row + 1], alone)


def test_a_long_row_equals_itself_however_it_is_spread(kernels):
    segments = [Segment([1], [4000], 4000, list(range(251))), Segment([1], [70], 70, list(range(251, 256)))]
    case = Case(16, 2, 4, 64, torch.bfloat16, segments, 256, 5)
    batch = case.batch()
    inputs = case.inputs(2)
    results = []
    for threads in (1, 2, 3, 8):
        case.threads = threads
        results.append(case.run(NativeAttention(kernels), batch, inputs))
    assert all(torch.equal(results[0], other) for other in results[1:])


def test_decodes_that_share_a_prefix_equal_decodes_that_do_not(kernels):
    """Groups of several sizes and depths, a member that is all prefix, and one whose tables differ inside a block."""
    long, short = list(range(64)), list(range(20))
    tables = [[*long, 100 + i] for i in range(5)] + [[*short, 110 + 2 * i, 111 + 2 * i] for i in range(4)] + [long]
    segments = [Segment([1], [len(t) * 16 - 3], len(t) * 16 - 3, t, write_kv=False) for t in tables]
    case = Case(16, 3, 3, 64, torch.bfloat16, segments, 200, 7)
    batch, pool = case.batch(), case.pool()
    inputs = case.inputs(len(segments))
    results = []
    for shares in (True, False):
        for threads in (1, 4):
            case.threads = threads
            results.append(case.run(NativeAttention(kernels, shares=shares), batch, inputs, pool))
    assert all(torch.equal(results[0], other) for other in results[1:])
    assert torch.allclose(results[0].double(), case.dense(batch, inputs, pool), atol=2e-2)


def test_a_row_that_sees_nothing_gets_zeros(kernels):
    segments = [Segment([1], [5], 5, [0], masks=[[]]), Segment([1, 1], [0, 1], 0, [1], masks=[[(0, 1)], []])]
    for options in ({}, {"sinks": torch.ones(4)}, {"window": 2}):
        case = Case(16, 2, 2, 32, torch.float32, segments, 2, 1, options=options)
        batch = case.batch()
        for attention in (NativeAttention(kernels), TorchAttention()):
            out = case.run(attention, batch, case.inputs(3))
            assert bool((out[[0, 2]] == 0).all())
            assert bool(torch.isfinite(out).all())


def test_what_is_not_a_number_stays_visible(kernels):
    case = Case(16, 1, 2, 32, torch.float32, [Segment([1], [20], 20, [0, 1])], 2, 1)
    for options in ({}, {"softcap": 5.0}):
        case.options = options
        pool = case.pool()
        pool.keys(1)[0, 0, 3] = float("nan")
        out = case.run(NativeAttention(kernels), case.batch(), case.inputs(1), pool)
        assert bool(out.isnan().all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_nobody_sees_need_not_be_a_number(kernels, dtype):
    """A page keeps what its last holder left in it until it is written."""
    parts = [Segment([1], [2], 2, [0]), Segment([1] * 3, range(5, 8), 5, [1, 2]), Segment([1], [17], 17, [3, 4, 5])]
    case = Case(8, 2, 2, 64, dtype, parts, 6, seed=3)
    batch = case.batch()
    inputs = case.inputs(batch.rows)
    for attention in (NativeAttention(kernels), TorchAttention()):
        expected = case.run(attention, batch, inputs)
        for unseen in (float("nan"), float("inf")):
            pool = case.pool()
            for side in (pool.keys(1), pool.values(1)):
                side[0, :, 3:] = unseen
                side[2] = unseen
                side[5, :, 2:] = unseen
            assert torch.equal(case.run(attention, batch, inputs, pool), expected)


def test_nothing_but_its_slots_is_written(kernels):
    segments = [Segment([1] * 5, range(14, 19), 14, [0, 2]), Segment([1], [3], 3, [1], write_kv=False)]
    case = Case(16, 2, 2, 32, torch.bfloat16, segments, 3, 1)
    pool = case.pool()
    before = pool.tensor.clone()
    inputs = case.inputs(6)
    case.run(NativeAttention(kernels), case.batch(), inputs, pool)
    changed = (pool.tensor[:3] != before[:3]).any(dim=-1).nonzero().tolist()
    assert {(page, layer) for page, layer, *_ in changed} == {(0, 1), (2, 1)}
    assert torch.equal(pool.keys(1)[0, :, 14], inputs[1][0])
    assert torch.equal(pool.values(1)[2, :, 2], inputs[2][4])


def test_a_batch_that_does_not_fit_the_pool_is_refused(kernels):
    attention = NativeAttention(kernels)
    pool = KvPool(4, 1, 1, 16, 16, torch.float32)
    for wrong in (
        Segment([1], [0], 0, [5]),
        Segment([1], [20], 20, [1], write_kv=False),
        Segment([1], [3], 3, [1], masks=[[(0, 17)]]),
    ):
        with pytest.raises(InternalError):
            attention.begin(build([wrong], page_size=16, scratch_page=4), pool)
    with pytest.raises(InternalError):
        attention.begin(
            build([Segment([1], [0], 0, [0])], page_size=16, scratch_page=4), KvPool(4, 1, 1, 24, 16, torch.float32)
        )
