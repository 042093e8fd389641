"""Fair shares: nobody takes all, and what is taken is given back."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given
from pie_wire.shares import Shares

AMOUNTS = st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, 40), st.booleans()), max_size=60)


def filled(shares: Shares, owner: str) -> int:
    while shares.take(owner):
        pass
    return shares.of(owner)


def test_one_alone_gets_half_and_a_newcomer_half_of_the_rest():
    shares = Shares(512)

    assert [filled(shares, owner) for owner in ("a", "b", "c")] == [256, 128, 64]
    assert not shares.take("a")


def test_the_last_place_is_somebodys_who_has_none():
    shares = Shares(1)

    assert shares.take("a")
    assert not shares.take("b")


def test_what_is_too_large_is_refused_whole():
    shares = Shares(10)

    assert not shares.take("a", 11)
    assert shares.taken == 0


def test_one_gives_back_no_more_than_it_has():
    shares = Shares(10)
    shares.take("a", 2)

    with pytest.raises(ValueError, match="a gives back 3 and has 2"):
        shares.give_back("a", 3)


@given(st.integers(1, 100), AMOUNTS)
def test_shares_add_up_and_nobody_gets_beyond_half(total: int, steps: list[tuple[str, int, bool]]):
    shares, has = Shares(total), dict.fromkeys("abcd", 0)
    for owner, amount, takes in steps:
        if takes:
            free = total - sum(has.values())
            granted = shares.take(owner, amount)
            assert granted == (has[owner] + amount <= free)
            has[owner] += amount * granted
            assert not granted or has[owner] <= (total + amount) / 2
        else:
            returned = min(amount, has[owner])
            shares.give_back(owner, returned)
            has[owner] -= returned
        assert {name: shares.of(name) for name in has} == has
        assert shares.taken == sum(has.values()) <= total
