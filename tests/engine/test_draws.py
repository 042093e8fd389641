"""Uniform numbers are functions of (seed, position), spread evenly, and the same on every machine."""

from __future__ import annotations

import numpy as np
from pie_engine.passes.draws import uniforms

GOLDEN = [0.6524484863740322, 0.7743991716672017, 0.7823759653284018]


def test_values_are_fixed_for_ever():
    """A recorded seed must repeat its generation in every later version."""
    assert uniforms([0, 1, 2**63], [0, 5, 123456]).tolist() == GOLDEN


def test_even_over_positions_and_over_seeds():
    for values in (uniforms([7] * 50_000, range(50_000)), uniforms(range(50_000), [7] * 50_000)):
        counts, _ = np.histogram(values, bins=50, range=(0, 1))
        assert np.abs(counts - 1000).max() < 200
        assert values.min() > 0
        assert values.max() < 1


def test_neighbouring_positions_are_uncorrelated():
    values = uniforms([3] * 20_000, range(20_000))
    assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.03


def test_negative_and_huge_seeds_are_taken_modulo_64_bits():
    assert uniforms([-1], [0]).tolist() == uniforms([2**64 - 1], [0]).tolist()
