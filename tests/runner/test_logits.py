"""Rows of logits against the engine's sampler and its plain arithmetic."""

from __future__ import annotations

import base64
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pie_engine.kernels import torch_sampler
from pie_engine.passes.distribution import edited_logits, exact_distribution
from pie_engine.passes.draws import uniforms
from pie_engine.passes.outputs import Bias, History, Output, Sampler
from pie_runner.host import checks
from pie_runner.limits import Usage
from pie_runner.logits import MAX_BYTES, Logits
from pie_runner.process_limits import ProcessLimits
from pie_runner.resident import Resident
from pie_wire.errors import BadRequest, LimitExceeded, TooLarge

torch = pytest.importorskip("torch")
NAN, INF = float("nan"), float("inf")


def row_of(seed: int, vocab: int, spread: float = 3.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(vocab) * spread).astype(np.float32)


def sampled(row: np.ndarray, sampler: Sampler, position: int) -> int:
    """By the engine."""
    [token] = torch_sampler.sample(torch.from_numpy(row.copy())[None], [0], [Output(0, position, sampler)])
    assert isinstance(token, int)
    return token


def kept(logits: Logits) -> list[int]:
    return np.flatnonzero(np.isfinite(np.frombuffer(logits.to_bytes(), dtype="<f4"))).tolist()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 1000),
    st.sampled_from([7, 300, 9000]),
    st.sampled_from([1.0, 0.5, 0.7, 3.0]),
    st.sampled_from([0, 1, 5, 400]),
    st.sampled_from([1.0, 0.9, 0.2]),
    st.sampled_from([0.0, 0.05]),
    st.sampled_from([1.0, 0.8]),
)
def test_filters_and_draw_are_the_engines_own(seed, vocab, temperature, top_k, top_p, min_p, typical_p):
    row = row_of(seed, vocab)
    sampler = Sampler(temperature, top_p, top_k, seed, min_p, typical_p)
    logits = Logits(row)

    logits.temperature(temperature)
    if top_k:
        logits.keep_top_k(min(top_k, vocab))
    logits.keep_top_p(top_p)
    logits.keep_min_p(min_p)
    logits.keep_typical_p(typical_p)

    for position in range(4):
        [uniform] = uniforms([seed], [position]).tolist()
        assert logits.fork().sample(uniform) == sampled(row, sampler, position)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([9, 300]), st.sampled_from([0.95, 0.5]), st.sampled_from([0, 3, 50]))
def test_filters_keep_what_the_definition_keeps(seed, vocab, top_p, top_k):
    row = row_of(seed, vocab)
    logits = Logits(row)
    if top_k:
        logits.keep_top_k(min(top_k, vocab))
    logits.keep_top_p(top_p)

    assert kept(logits) == np.flatnonzero(exact_distribution(row, Sampler(1.0, top_p, top_k))).tolist()


def test_among_equals_the_lower_id_comes_first():
    row = np.array([1, 3, 3, 3, 0, 2], dtype=np.float32)

    assert kept_after(row, "keep_top_k", 2) == [1, 2]
    assert kept_after(row, "keep_top_p", 0.5) == [1, 2]
    assert Logits(row).topk(4) == ([1, 2, 3, 5], [3, 3, 3, 2])
    assert Logits(row).argmax() == 1


def kept_after(row, operation, *arguments):
    logits = Logits(row)
    getattr(logits, operation)(*arguments)
    return kept(logits)


@pytest.mark.parametrize("allowed", [None, [3, 17, 18, 200]])
def test_edits_are_the_definitions_own(allowed):
    row, tokens = row_of(1, 300), [3, 3, 17, 250]
    logits = Logits(row)
    sampler = Sampler(
        bias=Bias(np.array([3, 40], dtype=np.int32), np.array([2.5, -1.0], dtype=np.float32)),
        repetition_penalty=1.3,
        presence_penalty=0.5,
        frequency_penalty=0.25,
    )
    expected = edited_logits(row, sampler, History(np.array(tokens, dtype=np.int32), 0)).astype(np.float32)

    if allowed is not None:
        logits.allow(allowed)
        expected[[i for i in range(300) if i not in allowed]] = -np.inf
    logits.bias([(3, 2.5), (40, -1.0)])
    logits.penalize(tokens, 1.3, 0.5, 0.25)

    np.testing.assert_allclose(np.frombuffer(logits.to_bytes(), dtype="<f4"), expected, rtol=1e-6)
    assert logits.gather([3, 40, 299]) == pytest.approx(expected[[3, 40, 299]].tolist(), rel=1e-6)


def test_masks_temperature_and_probabilities():
    row = row_of(2, 70)
    logits = Logits(row)
    flags = np.zeros(96, dtype=bool)
    flags[[1, 5, 69]] = True

    logits.mask(np.packbits(flags, bitorder="little").tobytes())
    logits.temperature(0.5)
    left = row[[1, 5, 69]].astype(np.float64) / 0.5
    logarithms = left - np.log(np.exp(left).sum())
    entropy = -(np.exp(logarithms) * logarithms).sum()

    assert logits.gather([1, 2]) == [pytest.approx(left[0], rel=1e-6), -INF]
    assert logits.entropy() == pytest.approx(entropy, rel=1e-5)
    logits.log_softmax()
    assert logits.gather([1, 5, 69]) == pytest.approx(logarithms.tolist(), abs=1e-5)
    assert [number for number, _ in zip(*logits.topk(10), strict=True)] == [
        [1, 5, 69][i] for i in np.argsort(-left, kind="stable")
    ]


def test_forks_are_apart_and_bytes_are_not_written_to():
    data = bytearray(row_of(3, 64).tobytes())
    first = Logits.of_bytes(bytes(data))
    first.bias([(1, 5.0)])
    second = first.fork()
    second.bias([(1, 1.0)])
    first.allow([2, 3])

    assert second.gather([1])[0] == pytest.approx(np.frombuffer(data, dtype="<f4")[1] + 6.0)
    assert kept(second) == list(range(64))
    assert kept(first) == [2, 3]
    assert Logits.of_bytes(second.to_bytes()).to_bytes() == second.to_bytes()


BAD = {
    "bias-nan": lambda r: r.bias([(0, NAN)]),
    "bias-infinite": lambda r: r.bias([(0, INF)]),
    "bias-id": lambda r: r.bias([(8, 1.0)]),
    "gather": lambda r: r.gather([-1]),
    "mask-short": lambda r: r.mask(b"\xff"),
    "allow": lambda r: r.allow([8]),
    "temperature-zero": lambda r: r.temperature(0.0),
    "temperature-nan": lambda r: r.temperature(NAN),
    "temperature-infinite": lambda r: r.temperature(INF),
    "top-k-zero": lambda r: r.keep_top_k(0),
    "top-k-beyond": lambda r: r.topk(9),
    "top-p-zero": lambda r: r.keep_top_p(0.0),
    "top-p-nan": lambda r: r.keep_top_p(NAN),
    "min-p": lambda r: r.keep_min_p(1.5),
    "typical": lambda r: r.keep_typical_p(-1.0),
    "repetition": lambda r: r.penalize([0], 0.0, 0.0, 0.0),
    "presence": lambda r: r.penalize([0], 1.0, NAN, 0.0),
    "penalized-id": lambda r: r.penalize([9], 1.0, 0.0, 0.0),
    "sample": lambda r: r.sample(1.0),
    "sample-nan": lambda r: r.sample(NAN),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("left", [None, [2, 5]])
def test_bad_values_are_refused_and_change_nothing(name, left):
    logits = Logits(row_of(4, 8))
    if left is not None:
        logits.allow(left)
    before = logits.to_bytes()

    with pytest.raises(BadRequest):
        BAD[name](logits)
    assert logits.to_bytes() == before


@pytest.mark.parametrize(
    "data", [b"", b"\0\0\0", np.array([NAN], "<f4").tobytes(), np.array([INF, 0], "<f4").tobytes()]
)
def test_bytes_that_are_no_row(data):
    with pytest.raises(BadRequest):
        Logits.of_bytes(data)


def test_a_row_with_nothing_left_says_so():
    logits = Logits(row_of(5, 40))
    logits.mask(bytes(8))

    for ask in (
        logits.argmax,
        logits.entropy,
        logits.log_softmax,
        lambda: logits.sample(0.5),
        lambda: logits.keep_top_p(0.5),
    ):
        with pytest.raises(BadRequest, match="forbidden"):
            ask()
    assert logits.topk(3) == ([], [])
    assert kept(logits) == []


@pytest.mark.parametrize("temperature", [5e-324, 1e-38, 1e38])
def test_extreme_temperatures_overflow_nothing(temperature):
    logits = Logits(np.array([1.0, 2.0, -1e30], dtype=np.float32))
    logits.temperature(temperature)

    assert logits.fork().sample(0.999) in (1, 2)
    assert 0.0 <= logits.entropy() <= math.log(3) + 1e-6
    logarithms = logits.fork()
    logarithms.log_softmax()
    assert all(value <= 0.0 for value in logarithms.gather([0, 1, 2]))
    assert all(-INF <= value < INF for value in logits.gather([0, 1, 2]))


def test_rows_count_until_they_are_closed():
    usage = Usage(ProcessLimits(logits_bytes=100), lambda: 0.0)
    first = Resident(Logits(row_of(6, 20)), usage)

    with pytest.raises(LimitExceeded, match="logits_bytes = 100"):
        first.fork()
    first.close()
    first.close()
    second = Resident(Logits(row_of(6, 20)), usage)
    assert usage.rows == 80
    second.close()
    assert usage.rows == 0


def test_draws_of_the_host_repeat_with_its_key():
    from pie_runner.draws import Draws

    numbers = [Draws(b"key").uniform() for _ in range(2)]

    assert numbers[0] == numbers[1]
    assert 0.0 < numbers[0] < 1.0


def test_text_far_larger_than_any_row_is_not_decoded():
    for text, limit in (("A" * 2_000_000, MAX_BYTES), ("!" * 2_000_000, checks.MAX_MASK)):
        with pytest.raises(TooLarge):
            checks.binary(text, "it", limit)
    assert len(checks.binary(base64.b64encode(bytes(MAX_BYTES)).decode(), "it", MAX_BYTES)) == MAX_BYTES
