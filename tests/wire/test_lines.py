"""Waiting in turns: nobody waits behind an owner that has no place."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from pie_wire.lines import Lines


def taken(queue: Lines[str], places: dict[str, str]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    while (one := queue.take(places.get)) is not None:
        found.append(one)
    return found


def test_tenants_take_turns_and_each_is_served_in_order():
    queue: Lines[str] = Lines()
    for item in ["a1", "a2", "a3", "b1"]:
        queue.add(item[0], item)

    assert [item for item, _ in taken(queue, {"a": "x", "b": "y"})] == ["a1", "b1", "a2", "a3"]
    assert len(queue) == 0


def test_one_without_a_place_holds_nobody_up_and_keeps_its_own():
    queue: Lines[str] = Lines()
    queue.add("a", "a1")
    queue.add("b", "b1")

    assert taken(queue, {"b": "y"}) == [("b1", "y")]
    assert taken(queue, {"a": "x"}) == [("a1", "x")]


def test_one_that_is_put_back_is_next_of_its_tenant():
    queue: Lines[str] = Lines()
    queue.add("a", "a1")
    queue.add("a", "a2")
    item, _ = queue.take({"a": "x"}.get) or ("", "")
    queue.put_back("a", item)

    assert [item for item, _ in taken(queue, {"a": "x"})] == ["a1", "a2"]


def test_what_is_overdue_is_named_in_each_line_and_stays_until_discarded():
    queue: Lines[int] = Lines()
    for tenant, deadline in [("a", 1), ("a", 5), ("b", 2), ("b", 3)]:
        queue.add(tenant, deadline)

    assert queue.overdue(lambda deadline: deadline <= 3) == [1, 2, 3]
    for tenant, deadline in [("a", 1), ("b", 2), ("b", 3), ("nobody", 5)]:
        queue.discard(tenant, deadline)
    assert queue.overdue(lambda deadline: deadline <= 5) == [5]
    assert len(queue) == 1


@given(st.lists(st.sampled_from("abc"), max_size=30), st.sets(st.sampled_from("abc")))
def test_all_with_a_place_are_served_once_in_their_order(arrivals: list[str], served: set[str]):
    queue: Lines[tuple[str, int]] = Lines()
    for number, tenant in enumerate(arrivals):
        queue.add(tenant, (tenant, number))

    found: list[tuple[str, int]] = []
    while (one := queue.take(lambda tenant: tenant if tenant in served else None)) is not None:
        found.append(one[0])

    assert sorted(found) == sorted((t, n) for n, t in enumerate(arrivals) if t in served)
    for tenant in served:
        mine = [number for t, number in found if t == tenant]
        assert mine == sorted(mine)
        others = [found.index((t, n)) for t, n in found if (t, n) == (tenant, mine[0])] if mine else [0]
        assert others[0] < len(served), "the first of each comes in the first round"
    assert len(queue) == sum(1 for tenant in arrivals if tenant not in served)
