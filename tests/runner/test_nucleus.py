"""Nuclei and weights against the rule as it stands: all weights, all of them sorted."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pie_runner.logits import Logits
from pie_runner.nucleus import ERROR, LEAST, estimates_of, nucleus
from pie_runner.weights import drawn, level_factor, weights_of
from pie_wire.errors import BadRequest

POLYNOMIAL = (1.535336188319500e-4, 1.339887440266574e-3, 9.618437357674640e-3, 5.550332471162809e-2)
POLYNOMIAL += (2.402264791363012e-1, 6.931472028550421e-1, 1.0)


def normal(rng, size):
    return rng.standard_normal(size) * rng.uniform(0.0, 6.0)


def peaked(rng, size):
    row = rng.standard_normal(size) * 2.0
    row[rng.integers(0, size, 40)] += rng.uniform(5.0, 20.0, 40)
    return row


def coarse(rng, size):
    """Many equals, as of a model that computes in few bits."""
    return np.round(normal(rng, size) * 4.0) / 4.0


def zipf(rng, size):
    return -1.2 * np.log(rng.permutation(size) + 1.0)


def masked(rng, size):
    row = np.where(rng.random(size) < 0.3, -np.inf, normal(rng, size))
    row[rng.integers(0, size)] = 1.0
    return row


def constant(_rng, size):
    return np.zeros(size)


def far(rng, size):
    """Values of many sizes, whose differences float32 can hold just so."""
    return rng.standard_normal(size) * 10.0 ** rng.uniform(-30.0, 30.0)


KINDS = (normal, peaked, coarse, zipf, masked, constant, far)
rows = st.builds(
    lambda kind, seed, size: kind(np.random.default_rng(seed), size).astype(np.float32),
    st.sampled_from(KINDS),
    st.integers(0, 1 << 30),
    st.sampled_from([1, 2, 63, 300, LEAST - 1, LEAST, LEAST + 17, 20_000, 49_152, 60_001]),
)
temperatures = st.sampled_from([1.0, 0.8, 0.3, 2.0, 1e-3, 1e-37, 1e37])
shares = st.one_of(st.sampled_from([0.9, 0.5, 0.95, 0.99, 1e-9, 1 - 1e-12]), st.floats(1e-6, 1.0, exclude_max=True))


def plain_weights(row, temperature):
    """2**(40 + level), a step at a time."""
    factor = np.float32(min(max(1.4426950408889634 / temperature, 2.0**-126), float(np.finfo(np.float32).max)))
    with np.errstate(over="ignore"):
        levels = np.maximum((row - row.max()) * factor, np.float32(-64.0))
    whole = np.rint(levels)
    part, power = levels - whole, np.zeros_like(levels)
    for coefficient in POLYNOMIAL:
        power = power * part + np.float32(coefficient)
    return np.rint(np.ldexp(power, whole.astype(np.int32) + 40)).astype(np.int64)


def plain_nucleus(weights, share):
    order = np.lexsort((np.arange(len(weights)), -weights))
    total = int(weights.sum())
    needed = min(total, max(1, math.ceil(share * float(total))))
    sums = weights[order].cumsum()
    return np.sort(order[: int(np.flatnonzero(sums >= needed)[0]) + 1])


def left(logits):
    return np.flatnonzero(np.isfinite(np.frombuffer(logits.fork().to_bytes(), "<f4"))).tolist()


def numbers(places, row, temperature):
    """Those whose values are numbers, once they are divided."""
    with np.errstate(over="ignore"):
        divided = np.minimum(row[places] / np.float32(temperature), np.float32(3e38))
    return places[np.isfinite(divided)].tolist()


@settings(max_examples=150, deadline=None)
@given(rows, temperatures)
def test_weights_are_those_of_the_plain_rule(row, temperature):
    weights = weights_of(row, row.max(), level_factor(temperature))

    assert np.array_equal(weights, plain_weights(row, temperature))


@settings(max_examples=250, deadline=None)
@given(rows, temperatures, shares)
def test_top_p_keeps_and_then_draws_what_the_plain_rule_does(row, temperature, share):
    weights = plain_weights(row, temperature)
    expected = plain_nucleus(weights, share)
    logits = Logits(row)
    logits.temperature(temperature)

    logits.keep_top_p(share)

    assert left(logits) == numbers(expected, row, temperature)
    ends = weights[expected].cumsum()
    for uniform in (0.0, 0.3, 0.77, 1.0 - 2.0**-53):
        target = min(int(ends[-1]) - 1, int(uniform * float(ends[-1])))
        assert logits.sample(uniform) == expected[np.flatnonzero(ends > target)[0]]


@settings(max_examples=150, deadline=None)
@given(rows, temperatures, st.one_of(st.sampled_from([1.0, 0.05, 1e-12, 5e-324]), st.floats(1e-13, 1.0)))
def test_min_p_keeps_what_the_plain_rule_does(row, temperature, share):
    expected = np.flatnonzero(plain_weights(row, temperature) >= math.ceil(share * 2.0**40))
    logits = Logits(row)
    logits.temperature(temperature)

    logits.keep_min_p(share)

    assert left(logits) == numbers(expected, row, temperature)


def plain_typical(row, temperature, share):
    weights = plain_weights(row, temperature)
    factor = np.float32(min(max(1.4426950408889634 / temperature, 2.0**-126), float(np.finfo(np.float32).max)))
    with np.errstate(over="ignore"):
        levels = np.maximum((row - row.max()) * factor, np.float32(-64.0))
    depths = [int(depth) for depth in np.rint(levels * np.float32(-65536.0))]
    total = int(weights.sum())
    mean = sum(weight * depth for weight, depth in zip(weights.tolist(), depths, strict=True)) // total
    far = np.array([abs(depth - mean) for depth in depths])
    order = [place for place in np.lexsort((np.arange(len(row)), far)) if weights[place]]
    sums = weights[order].cumsum()
    needed = min(total, max(1, math.ceil(share * float(total))))
    return np.sort(order[: int(np.flatnonzero(sums >= needed)[0]) + 1])


@settings(max_examples=60, deadline=None)
@given(rows, temperatures, shares)
def test_typical_p_keeps_what_the_plain_rule_does(row, temperature, share):
    logits = Logits(row)
    logits.temperature(temperature)

    logits.keep_typical_p(share)

    assert left(logits) == numbers(plain_typical(row, temperature, share), row, temperature)


@settings(max_examples=150, deadline=None)
@given(rows, temperatures, shares)
def test_a_nucleus_that_is_found_is_the_one(row, temperature, share):
    if len(row) < LEAST:
        row = np.resize(row, LEAST)
    found = nucleus(row, level_factor(temperature), share)

    if found is not None:
        weights = plain_weights(row, temperature)
        expected = plain_nucleus(weights, share)
        assert np.array_equal(found.places, expected)
        assert np.array_equal(found.weights, weights[expected])


@pytest.mark.parametrize("kind", [peaked, coarse])
@pytest.mark.parametrize("share", [0.5, 0.9, 0.95])
def test_nuclei_of_rows_like_those_of_models_are_found(kind, share):
    found = [
        nucleus((kind(np.random.default_rng(seed), 49_152) + 3.0).astype(np.float32), level_factor(0.5), share)
        for seed in range(20)
    ]

    assert sum(one is not None for one in found) >= 15


def test_a_token_at_the_very_border_is_told_by_the_sum_of_all_weights():
    for seed in range(60):
        row = (np.random.default_rng(seed).standard_normal(20_000) * 4.0).astype(np.float32)
        weights = plain_weights(row, 1.0)
        order = np.lexsort((np.arange(len(weights)), -weights))
        border = float(weights[order][:20].sum()) / float(weights.sum())
        for share in (np.nextafter(border, 0.0), border, np.nextafter(border, 1.0)):
            found = nucleus(row, level_factor(1.0), float(share))
            assert found is not None
            assert np.array_equal(found.places, plain_nucleus(weights, float(share)))


@settings(max_examples=100, deadline=None)
@given(rows, temperatures)
def test_estimates_err_no_more_than_they_say(row, temperature):
    factor = level_factor(temperature)
    estimates = estimates_of(row, row.max(), np.float32(float(factor) * math.log(2.0))).astype(np.float64) * 2.0**40

    assert (np.abs(plain_weights(row, temperature) - estimates) <= estimates * ERROR + 1.0).all()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 1 << 40), min_size=1, max_size=6000).filter(any), st.floats(0.0, 1.0, exclude_max=True))
def test_a_draw_is_the_inverse_of_the_distribution_function(numbers, uniform):
    weights = np.array(numbers, dtype=np.int64)
    total = sum(numbers)

    place = drawn(weights, uniform)

    assert sum(numbers[:place]) <= min(total - 1, int(uniform * float(total))) < sum(numbers[: place + 1])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("size", [40, 20_000])
@pytest.mark.parametrize("place", [0, 33, -1])
def test_rows_that_are_not_all_numbers_are_refused_by_whatever_chooses(bad, size, place):
    row = np.zeros(size, dtype=np.float32)
    row[place] = bad
    logits = Logits(row)

    for ask in (
        logits.argmax,
        logits.entropy,
        logits.log_softmax,
        lambda: logits.sample(0.5),
        lambda: logits.keep_top_p(0.5),
        lambda: logits.keep_min_p(0.5),
        lambda: logits.keep_typical_p(0.5),
    ):
        with pytest.raises(BadRequest, match="not all numbers"):
            ask()
