"""Rest after slices that were too long: who has to, for how long, and who not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pie_runner.wasm.rests import (
    FELT_REST,
    FELT_SECONDS,
    FREE,
    LONG_SECONDS,
    MAX_PAYING,
    MAX_PROGRAMS,
    MAX_TENANTS,
    REST,
    Rests,
)

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
    assert rests.start(A, NOW) == rests.start(B, NOW) == 0.0
    until = rests.charge(A, 0.1, NOW)

    assert rests.start(A, NOW) == until
    assert rests.start(A, until) == 0.0
    assert rests.start(B, NOW) == rests.start(OTHER, NOW) == 0.0


def test_programs_that_a_tenant_has_not_launched_before_start_one_at_a_time_while_it_pays():
    rests = exhausted()
    for _ in range(3):
        rests.charge(A, 0.1, NOW)
    first, second = ("tenant", "first"), ("tenant", "second")

    assert rests.start(first, NOW) == rests.start(second, NOW) == NOW + FELT_REST
    assert rests.start(first, NOW + FELT_REST) == 0.0
    assert rests.start(second, NOW + FELT_REST) == NOW + 2 * FELT_REST
    assert rests.start(first, NOW + FELT_REST) == 0.0, "it is known now"
    assert rests.start(("another", "new"), NOW) == 0.0


def test_when_a_tenant_has_paid_it_starts_what_it_likes():
    rests = exhausted()
    until = rests.charge(A, 0.1, NOW)

    assert [rests.start(("tenant", str(number)), until) for number in range(5)] == [0.0] * 5


def test_who_is_alone_starts_what_is_not_known():
    rests = exhausted()
    rests.charge(A, 0.1, NOW)

    assert rests.start(B, NOW, alone=True) == 0.0
    assert rests.start(A, NOW, alone=True) == NOW + FELT_REST


def test_other_source_at_each_launch_does_not_help():
    """One launch a second, each with a slice of 100 ms: those wait their turn, and what is felt stays small."""
    rests, now, waiting, felt = Rests(), NOW, list[str](), 0
    ready: list[tuple[float, str]] = []
    for number in range(1200):
        now += 1.0
        waiting.append(f"source {number}")
        started = [name for name in waiting if rests.start(("hog", name), now) == 0.0]
        waiting = [name for name in waiting if name not in started]
        rested = [name for at, name in ready if at <= now]
        ready = [(at, name) for at, name in ready if at > now]
        for name in started + rested:
            felt += 1
            ready.append((rests.charge(("hog", name), 0.1, now), name))

    assert felt * 0.1 <= 1200 / 50 * 1.25 + 6 * 0.1


def test_what_one_tenant_owes_another_does_not_wait_for():
    rests = Rests()
    for number in range(600):
        rests.charge(("hog", str(number)), 0.1, NOW)

    rest = max(rests.charge(OTHER, 0.03, NOW) for _ in range(6)) - NOW

    assert rest == 2 * FELT_REST


def test_tenants_that_pay_take_turns_so_that_they_take_no_more_together():
    rests = Rests()
    tenants = [(str(number), "a") for number in range(MAX_PAYING + 2)]
    for payer in tenants:
        for _ in range(int(FREE / FELT_REST)):
            rests.charge(payer, 0.1, NOW)

    until = [rests.charge(payer, 0.1, NOW) - NOW for payer in tenants]

    assert until == [FELT_REST * min(number + 1, MAX_PAYING) for number in range(len(tenants))]


def test_what_is_remembered_is_bounded():
    rests = Rests()
    for number in range(MAX_TENANTS + 10):
        rests.charge((str(number), "a"), 10.0, NOW)
        rests.start((str(number), "b"), NOW)
    for number in range(MAX_PROGRAMS + 10):
        rests.charge(("last", str(number)), 10.0, NOW)
        rests.start(("last", f"other {number}"), NOW)

    assert len(rests._tenants) == MAX_TENANTS
    assert len(rests._tenants["last"].programs) == MAX_PROGRAMS


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
