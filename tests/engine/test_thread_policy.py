"""Passes use all cores while they have them, and one for few rows while others want them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pie_engine.models.thread_policy import ThreadPolicy


def after(policy: ThreadPolicy, share: float, passes: int = 50) -> ThreadPolicy:
    for _ in range(passes):
        policy.ran(0.01, 0.01 * share)
    return policy


@pytest.mark.parametrize("rows", [1, 16, 512])
def test_all_cores_on_a_machine_of_its_own(rows):
    assert after(ThreadPolicy(4), 1.0).threads(rows) == 4


def test_one_thread_for_few_rows_among_others():
    policy = after(ThreadPolicy(4), 0.4)

    assert policy.threads(1) == policy.threads(16) == 1
    assert policy.threads(64) == 4


def test_one_slow_pass_changes_nothing():
    assert after(ThreadPolicy(4), 0.1, passes=1).threads(1) == 4


def test_cores_come_back():
    assert after(after(ThreadPolicy(4), 0.4), 1.0).threads(1) == 4


def test_in_between_nothing_changes():
    assert after(ThreadPolicy(4), 0.85).threads(1) == 4
    assert after(after(ThreadPolicy(4), 0.4), 0.85).threads(1) == 1


@given(passes=st.lists(st.tuples(st.floats(0, 10), st.floats(0, 100))), rows=st.integers(1, 4096))
def test_a_fixed_number_stays(passes, rows):
    policy, free = ThreadPolicy(4, fixed=3), ThreadPolicy(4)
    for seconds, computed in passes:
        policy.ran(seconds, computed)
        free.ran(seconds, computed)

    assert policy.threads(rows) == 3
    assert free.threads(rows) in (1, 4)
