"""Paged attention against dense attention written out per row, for every kind of mask and grouping."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from pie_engine.kernels.kv_pool import KvPool
from pie_engine.kernels.torch_attention import TorchAttention
from pie_engine.passes.batch import Batch
from pie_engine.passes.build import build
from pie_engine.passes.segment import Segment

PAGES, PAGE, HEADS, KV_HEADS, DIM = 40, 4, 6, 2, 16


def segments(masks: bool) -> list[Segment]:
    """Decodes of several lengths around a prefill chunk, a whole prompt and a row that only asks."""
    chance = np.random.default_rng(0)
    free = chance.permutation(PAGES).tolist()

    def segment(first: int, count: int, *, write: bool = True) -> Segment:
        pages = [free.pop() for _ in range(-(-(first + count) // PAGE))]
        mask = None
        if masks:
            mask = [[(0, min(2, slot + 1)), (max(0, slot - 3), slot + 1)] for slot in range(first, first + count)]
        return Segment([1] * count, range(first, first + count), first, pages, masks=mask, write_kv=write)

    return [segment(9, 1), segment(30, 1), segment(6, 7), segment(0, 13), segment(3, 1), segment(7, 1, write=False)]


def dense(batch: Batch, pool: KvPool, query, scale, window=None, softcap=None, sinks=None):
    rows = []
    for segment in range(batch.segments):
        table = batch.pages[batch.page_ptr[segment] : batch.page_ptr[segment + 1]].tolist()
        keys = pool.keys(0)[table].transpose(1, 2).reshape(-1, KV_HEADS, DIM)
        values = pool.values(0)[table].transpose(1, 2).reshape(-1, KV_HEADS, DIM)
        for row in range(batch.segment_rows[segment], batch.segment_rows[segment + 1]):
            slot = int(batch.row_slots[row])
            seen = torch.zeros(len(keys), dtype=torch.bool)
            for start, end in batch.intervals[batch.interval_ptr[row] : batch.interval_ptr[row + 1]]:
                seen[start:end] = True
            if window:
                seen[: max(0, slot - window + 1)] = False
            heads = []
            for head in range(HEADS):
                kv_head = head // (HEADS // KV_HEADS)
                scores = keys[seen, kv_head] @ query[row, head] * scale
                if softcap:
                    scores = softcap * torch.tanh(scores / softcap)
                if sinks is not None:
                    weights = torch.softmax(torch.cat([scores, sinks[head : head + 1]]), -1)[:-1]
                else:
                    weights = torch.softmax(scores, -1)
                heads.append(weights @ values[seen, kv_head])
            rows.append(torch.stack(heads))
    return torch.stack(rows)


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("extra", [{}, {"window": 5}, {"softcap": 2.0}, {"sinks": torch.randn(HEADS)}])
def test_paged_equals_dense(masks, extra):
    torch.manual_seed(0)
    batch = build(segments(masks), page_size=PAGE, scratch_page=PAGES)
    pool = KvPool(PAGES, 1, KV_HEADS, DIM, PAGE, torch.float32)
    pool.keys(0).normal_()
    pool.values(0).normal_()
    query = torch.randn(batch.rows, HEADS, DIM)
    key, value = torch.randn(2, batch.rows, KV_HEADS, DIM)
    ours = TorchAttention().begin(batch, pool).attend(0, query, key, value, scale=0.3, **extra)
    assert torch.allclose(ours, dense(batch, pool, query, 0.3, **extra), atol=1e-5)


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("extra", [{}, {"softcap": 2.0}])
def test_what_nobody_sees_need_not_be_a_number(masks, extra):
    """A page keeps what its last holder left in it until it is written."""
    torch.manual_seed(0)
    batch = build(segments(masks), page_size=PAGE, scratch_page=PAGES)
    query = torch.randn(batch.rows, HEADS, DIM)
    key, value = torch.randn(2, batch.rows, KV_HEADS, DIM)
    results = []
    for unseen in (0.0, float("nan"), float("inf")):
        pool = KvPool(PAGES, 1, KV_HEADS, DIM, PAGE, torch.float32)
        pool.tensor.fill_(unseen)
        for segment in range(batch.segments):
            table = batch.pages[batch.page_ptr[segment] : batch.page_ptr[segment + 1]]
            rows = slice(*batch.segment_rows[segment : segment + 2])
            seen = {slot for row in range(rows.start, rows.stop) for slot in visible(batch, row)}
            for slot in sorted(seen):
                pool.keys(0)[table[slot // PAGE], :, slot % PAGE] = slot * 0.01
                pool.values(0)[table[slot // PAGE], :, slot % PAGE] = slot * 0.1
        results.append(TorchAttention().begin(batch, pool).attend(0, query, key, value, scale=0.3, **extra))
    assert bool(torch.isfinite(results[0]).all())
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def visible(batch: Batch, row: int) -> list[int]:
    spans = batch.intervals[batch.interval_ptr[row] : batch.interval_ptr[row + 1]]
    return [slot for start, end in spans for slot in range(start, end)]


def test_writes_only_its_own_slots():
    batch = build(segments(masks=False), page_size=PAGE, scratch_page=PAGES)
    pool = KvPool(PAGES, 1, KV_HEADS, DIM, PAGE, torch.float32)
    ones = torch.ones(batch.rows, KV_HEADS, DIM)
    TorchAttention().begin(batch, pool).attend(0, torch.randn(batch.rows, HEADS, DIM), ones, ones, scale=1.0)
    written = pool.keys(0)[:PAGES, 0, :, 0].reshape(-1).nonzero()[:, 0].tolist()
    assert sorted(written) == sorted(slot for slot in batch.write_slots.tolist() if slot < PAGES * PAGE)
    assert len(written) == batch.rows - 1


def test_the_order_of_segments_does_not_matter():
    torch.manual_seed(0)
    parts = segments(masks=False)
    pool = KvPool(PAGES, 1, KV_HEADS, DIM, PAGE, torch.float32)
    pool.keys(0).normal_()
    pool.values(0).normal_()
    results = []
    for order in (range(6), [5, 3, 1, 0, 2, 4]):
        batch = build([parts[i] for i in order], page_size=PAGE, scratch_page=PAGES)
        rows = {i: batch.segment_rows[n : n + 2] for n, i in enumerate(order)}
        spread = {i: torch.full((len(parts[i].tokens), HEADS, DIM), 0.1 * (i + 1)) for i in range(6)}
        query = torch.cat([spread[i] for i in order])
        attended = (
            TorchAttention().begin(batch, pool).attend(0, query, query[:, :KV_HEADS], query[:, :KV_HEADS], scale=1.0)
        )
        results.append(torch.cat([attended[rows[i][0] : rows[i][1]] for i in range(6)]))
    assert torch.allclose(results[0], results[1], atol=1e-6)


def test_copies_come_before_writes():
    pool = KvPool(4, 2, KV_HEADS, DIM, PAGE, torch.float32)
    pool.keys(1)[2] = 5.0
    pool.copy_pages(np.array([[2, 0], [0, 2]], dtype=np.int32))
    assert bool((pool.keys(1)[0] == 5.0).all())
    assert bool((pool.keys(1)[2] == 0.0).all())


def test_batch_arrays_describe_the_segments():
    part = Segment([7, 8, 9], [3, 4, 5], 3, [4, 2])
    batch = build([part, dataclasses.replace(part, write_kv=False)], page_size=PAGE, scratch_page=PAGES)
    assert batch.write_slots.tolist() == [4 * 4 + 3, 2 * 4, 2 * 4 + 1, 160, 160, 160]
    assert batch.intervals.tolist() == [[0, 4], [0, 5], [0, 6]] * 2
    assert batch.segment_rows.tolist() == [0, 3, 6]
    assert batch.page_ptr.tolist() == [0, 2, 4]
    assert batch.load().area == 2 * 3 * 6
