"""Guesses are tried where they pay, and cost next to nothing where they do not."""

from __future__ import annotations

import random

import pytest
from pie_engine.passes.batch import Load
from pie_engine.runs.pace import Pace
from pie_engine.schedule.cost import CostModel

STEP_MS, ROW_MS = 16.0, 3.5
"""Of a small model on two cores."""


def least_right(requests: int) -> float:
    return ROW_MS / (ROW_MS + STEP_MS / requests)


def gain(requests: int, rate: float, tokens: int = 20_000, tries=None) -> float:
    """Time without guesses over that with guesses of which one is right at `rate`, for one of so many requests that
    share the step."""
    chance, pace = random.Random(7), Pace(8)
    spent, length = 0.0, 0
    while length < tokens:
        tried = tries if tries is not None else pace.wanted(length, least_right(requests))
        right = next((at for at in range(tried) if chance.random() >= rate), tried)
        spent += STEP_MS / requests + ROW_MS * (1 + tried)
        length += 1 + right
        if tried:
            pace.learn(tried, right, length)
    return length * (STEP_MS / requests + ROW_MS) / spent


@pytest.mark.parametrize("requests", [1, 4, 16, 64])
@pytest.mark.parametrize("rate", [0.0, 0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 1.0])
def test_guesses_never_lose_and_gain_most_of_what_can_be_gained(requests, rate):
    best = max(gain(requests, rate, tries=tries) for tries in range(9))
    got = gain(requests, rate)
    assert got >= 0.99
    assert got >= 0.95 + 0.5 * (best - 1)


def test_a_short_run_loses_little():
    assert gain(16, 0.0, tokens=192) > 0.98


def test_guesses_that_begin_to_be_right_are_found_again():
    pace = Pace(8)
    length = 0
    for _ in range(2000):
        length += 1
        if pace.wanted(length, 0.5):
            pace.learn(1, 0, length)
    tried = 0
    for _ in range(3000):
        wanted = pace.wanted(length, 0.5)
        length += 1 + wanted
        tried += wanted
        if wanted:
            pace.learn(wanted, wanted, length)
    assert tried > 2 * 3000


def test_a_lighter_load_lets_guessing_begin_at_once():
    pace = Pace(8)
    assert pace.wanted(10, 0.8) == 1
    pace.learn(1, 0, 11)
    assert pace.wanted(11, 0.8) == 0
    assert pace.wanted(11, 0.1) == 1


def test_the_number_of_guesses_follows_success():
    pace = Pace(8)
    assert pace.wanted(16, 0.01) == 4
    pace.learn(4, 4, 21)
    assert pace.wanted(21, 0.01) == 8
    pace.learn(8, 2, 24)
    assert pace.wanted(24, 0.01) == 3
    pace.learn(3, 0, 25)
    assert pace.wanted(25, 0.01) == 1


def test_a_row_is_worth_its_part_of_the_step():
    model = CostModel()
    for _ in range(400):
        for rows in (1, 2, 16, 30):
            model.observe(Load(rows, rows * 300, 0), STEP_MS + ROW_MS * rows)
    for rows in (1, 16):
        assert model.row_share(Load(rows, rows * 300, 0)) == pytest.approx(least_right(rows), abs=0.03)
    assert model.row_share(Load()) == 0.0
