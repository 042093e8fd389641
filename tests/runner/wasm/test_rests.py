"""Rest after slices that were too long: who has to, for how long, and who not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pie_runner.wasm.rests import FELT_REST, FELT_SECONDS, FREE, LONG_SECONDS, MAX_KNOWN, REST, Rests

A, B = ("tenant", "a"), ("tenant", "b")
OTHER = ("another", "a")
NOW = 1000.0


def exhausted(payer: tuple[str, str] = A) -> Rests:
    """Nothing of what is free for its tenant is left."""
    rests = Rests()
    for _ in range(int(FREE / FELT_REST)):
        assert rests.charge(payer, 0.1, NOW) == 0.0
    return rests


def test_slices_that_are_not_too_long_cost_nothing():
    rests = Rests()
    for _ in range(1000):
        assert rests.charge(A, LONG_SECONDS, NOW) == 0.0


def test_some_slices_that_others_feel_are_free():
    rests = exhausted()

    assert rests.charge(A, 0.1, NOW) == NOW + FELT_REST


def test_a_very_long_one_costs_more_and_a_slightly_long_one_less():
    assert exhausted().charge(A, 1.0, NOW) == NOW + (1.0 - LONG_SECONDS) * REST
    assert exhausted().charge(A, FELT_SECONDS, NOW) == pytest.approx(NOW + 0.5)


def test_one_rests_after_the_other():
    rests = exhausted()

    assert [rests.charge(payer, 0.1, NOW) for payer in (A, B, A)] == [NOW + n * FELT_REST for n in (1, 2, 3)]


def test_who_was_alone_does_not_rest_behind_others():
    rests = exhausted()
    for _ in range(100):
        rests.charge(A, 0.1, NOW)

    assert rests.charge(A, 0.1, NOW, alone=True) == NOW + FELT_REST


def test_other_tenants_keep_what_is_free_for_them():
    rests = exhausted()
    rests.charge(A, 0.1, NOW)

    assert rests.charge(OTHER, 0.1, NOW) == 0.0
    assert rests.charge(B, 0.1, NOW) > 0.0


def test_what_is_free_comes_back_after_the_rest():
    rests = exhausted()
    until = rests.charge(A, 0.1, NOW)

    assert rests.charge(A, 0.1, until + FELT_REST - 1) > 0.0
    rests = exhausted()
    until = rests.charge(A, 0.1, NOW)
    assert rests.charge(A, 0.1, until + FELT_REST) == 0.0


def test_nobody_starts_a_program_that_rests():
    rests = exhausted()
    assert rests.of(A, NOW) == 0.0
    until = rests.charge(A, 0.1, NOW)

    assert rests.of(A, NOW) == until
    assert rests.of(A, until) == 0.0
    assert rests.of(B, NOW) == rests.of(OTHER, NOW) == 0.0


def test_what_is_past_is_forgotten():
    rests = Rests()
    for number in range(MAX_KNOWN + 2):
        payer = (str(number), "a")
        rests.charge(payer, 10.0, NOW + number * 1000)

    assert len(rests._whole) == len(rests._programs) <= 2


@given(
    st.lists(st.tuples(st.integers(0, 5), st.floats(0.0, 2.0), st.floats(0.001, 30.0)), min_size=1, max_size=60),
)
def test_others_feel_some_of_a_tenant_and_then_one_in_a_while(slices: list[tuple[int, float, float]]):
    """Whatever programs of a tenant do, if each keeps its rest."""
    rests, now = Rests(), NOW
    ready = [0.0] * 6
    felt: list[float] = []
    for program, seconds, pause in slices:
        now += pause
        if ready[program] > now:
            continue
        ready[program] = rests.charge(("tenant", str(program)), seconds, now)
        if seconds > FELT_SECONDS:
            felt.append(now)
    for at in felt:
        within = [other for other in felt if at <= other < at + 10 * FELT_REST]
        assert len(within) <= 6 + FREE / FELT_REST + 10
