"""Pins and prefetches: pages that wait for a context, and what they may take from others."""

from __future__ import annotations

import pytest
from pie_wire.messages import engine as wire
from pie_wire.messages.common import Account

TOKENS = [(5 * i) % 97 for i in range(120)]


def pin_and_drop(bench, tokens, name="a", ttl=60.0, account=None):
    """Pin the pages of a context with these tokens, then drop it; returns the code of a refusal, if any."""
    context = bench.create(tokens, account)
    number = bench.send(wire.Pin(context, 0, name, ttl))
    bench.settle()
    bench.send(wire.Drop(context))
    bench.settle()
    error = bench.runner.failed.get(number)
    return error.code if error is not None else None


def rows_of(bench, tokens, account=None):
    """Rows that a flush of these tokens costs."""
    before = bench.device.rows
    context = bench.create(tokens, account)
    number = bench.send(wire.Flush(context, 0))
    bench.settle()
    assert number in bench.runner.flushed
    bench.send(wire.Drop(context))
    bench.settle()
    return bench.device.rows - before


def churn(bench):
    """Use the whole pool for other things."""
    for start in range(1, 4):
        rows_of(bench, [start] * 100)


def test_pinned_pages_outlive_their_context_and_pressure(benches):
    bench = benches(pages=32)
    assert pin_and_drop(bench, TOKENS[:22]) is None
    assert bench.owned() == 5
    churn(bench)
    assert rows_of(bench, TOKENS[:22]) == 1


def test_a_pin_ends_with_its_time(benches):
    bench = benches(pages=32)
    pin_and_drop(bench, TOKENS[:22], ttl=5.0)
    bench.now += 4.5
    bench.step()
    assert bench.owned() == 5
    bench.now += 1.0
    bench.step()
    assert (bench.owned(), bench.core.pool_stats().cached) == (0, 5)
    churn(bench)
    assert rows_of(bench, TOKENS[:22]) == 21


def test_a_name_holds_one_thing_and_can_be_let_go(bench):
    account = Account(salt=b"x")
    pin_and_drop(bench, TOKENS[:40], account=account)
    pin_and_drop(bench, TOKENS[:12], account=account)
    assert bench.owned() == 3
    bench.send(wire.Unpin(Account(salt=b"y"), "a"))
    bench.step()
    assert bench.owned() == 3
    bench.send(wire.Unpin(account, "a"))
    bench.step()
    assert bench.owned() == 0


def test_pins_of_equal_pages_share_them(bench):
    for name in ("a", "b"):
        assert pin_and_drop(bench, TOKENS[:40], name) is None
    assert bench.owned() == 10
    assert bench.core.stats()["pages_pinned"] == 20


def test_pins_survive_the_runner(bench):
    other = bench.add_runner("r1")
    bench.send(wire.Create(900, "p", "local", Account()), wire.Append(900, 0, TOKENS[:40]), runner=other)
    bench.send(wire.Pin(900, 0, "a", 60.0), runner=other)
    bench.settle()
    bench.remove_runner(other)
    bench.step()
    assert bench.owned() == 10


def test_pins_count_as_their_accounts_and_have_a_quota(benches):
    bench = benches(pages=64)
    account = Account(page_cap=16)
    assert pin_and_drop(bench, TOKENS[:40], account=account) == "out_of_memory"
    assert pin_and_drop(bench, TOKENS[:32], account=account) is None
    bench.create(TOKENS[40:80], account)
    bench.settle()
    assert any(error.code == "out_of_memory" for error in bench.runner.failed.values())
    assert rows_of(bench, TOKENS[40:72], account) == 31


def test_pins_of_all_hold_half_the_pool_at_most(benches):
    bench = benches(pages=32)
    assert pin_and_drop(bench, TOKENS[:60], account=Account(salt=b"1")) is None
    assert pin_and_drop(bench, TOKENS[:8], account=Account(salt=b"2")) == "out_of_memory"


def test_a_pin_leaves_what_running_requests_were_promised(benches):
    bench = benches(pages=32)
    run = bench.open_run(bench.create(TOKENS[:60]), 50)
    assert pin_and_drop(bench, TOKENS[60:80], account=Account(salt=b"1")) == "out_of_memory"
    bench.settle()
    assert bench.runner.ends[run].reason == "length"


def test_a_context_too_large_beside_the_pins_is_refused(benches):
    bench = benches(pages=32)
    pin_and_drop(bench, TOKENS[:40])
    number = bench.send(wire.Append(bench.create(), 0, TOKENS[:100]))
    bench.settle()
    assert bench.runner.failed[number].code == "out_of_memory"


def test_a_pin_that_would_hold_nothing_is_refused(bench):
    assert pin_and_drop(bench, TOKENS[:3]) == "bad_request"
    assert bench.core.stats()["pages_pinned"] == 0


def test_an_accounts_pins_are_bounded(benches):
    bench = benches(pages=1024)
    account = Account(salt=b"1")
    assert {pin_and_drop(bench, TOKENS[:4], str(i), account=account) for i in range(256)} == {None}
    assert pin_and_drop(bench, TOKENS[:4], "more", account=account) == "overloaded"
    assert pin_and_drop(bench, TOKENS[:4], "7", account=account) is None
    assert pin_and_drop(bench, TOKENS[:4], "more", account=Account(salt=b"2")) is None
    bench.send(wire.Unpin(account, "8"))
    assert pin_and_drop(bench, TOKENS[:4], "more", account=account) is None


def test_an_account_without_contexts_lets_its_pin_go(bench):
    account = Account(salt=b"1")
    assert pin_and_drop(bench, TOKENS[:4], account=account) is None
    bench.send(wire.Unpin(account, "a"))
    bench.step()
    assert bench.owned() == 0


def test_pins_end_each_in_its_time(bench):
    for name, ttl in (("a", 9.0), ("b", 3.0), ("c", 6.0), ("b", 12.0)):
        assert pin_and_drop(bench, TOKENS[:4], name, ttl) is None
    left = []
    for _ in range(5):
        left.append(bench.core.stats()["pages_pinned"])
        bench.now += 3.1
        bench.step()
    assert left == [3, 3, 2, 1, 0]


@pytest.mark.parametrize(("name", "ttl"), [("", 5.0), ("a" * 257, 5.0), ("a", 0.0), ("a", float("nan")), ("a", 1e9)])
def test_bad_pins(bench, name, ttl):
    assert pin_and_drop(bench, TOKENS[:12], name, ttl) == "bad_field"
    assert bench.owned() == 0


def test_a_context_that_forgot_tokens_is_not_pinned(bench):
    context = bench.create(TOKENS[:12])
    bench.send(wire.DropTokens(context, 0, 2, 8))
    number = bench.send(wire.Pin(context, 0, "a", 5.0))
    bench.settle()
    assert bench.runner.failed[number].code == "bad_request"


def test_pins_during_a_run_hold_what_was_consumed(bench):
    context = bench.create(TOKENS[:10])
    run = bench.open_run(context, 20)
    bench.settle()
    bench.send(wire.Consume(context, run, 3))
    bench.send(wire.Pin(context, 0, "a", 60.0))
    bench.settle()
    bench.send(wire.Drop(context))
    bench.settle()
    assert bench.owned() == 3


# -- prefetch


def test_prefetched_tokens_are_found(bench):
    number = bench.send(wire.Prefetch("p", "local", Account(), TOKENS[:22]))
    bench.settle()
    assert bench.runner.acked == number
    assert (bench.owned(), bench.core.pool_stats().cached) == (0, 5)
    context = bench.create(TOKENS[:22])
    flushed = bench.send(wire.Flush(context, 0))
    bench.settle()
    assert bench.runner.cached[flushed] == 20
    assert bench.device.rows == 21


def test_a_prefetch_is_acknowledged_before_it_is_done(bench):
    number = bench.send(wire.Prefetch("p", "local", Account(), TOKENS[:22]))
    bench.core.apply()
    bench.pump()
    assert bench.runner.acked == number
    assert bench.device.rows == 0


def test_a_prefetch_of_another_account_is_not_found(bench):
    bench.send(wire.Prefetch("p", "local", Account(salt=b"x"), TOKENS[:22]))
    bench.settle()
    assert rows_of(bench, TOKENS[:22]) == 21


def test_bad_prefetches_leave_nothing(bench):
    bad = [
        bench.send(wire.Prefetch("p", "local", Account(), [1, 97])),
        bench.send(wire.Prefetch("p", "local", Account(), [1] * 5000)),
        bench.send(wire.Prefetch("p", "local", Account(), [1] * 300)),
        bench.send(wire.Prefetch("p", "local", Account(), [1], [wire.AdapterUse("none")])),
    ]
    bench.send(wire.Prefetch("p", "local", Account(), []))
    bench.settle()
    assert [bench.runner.failed[number].code for number in bad] == [
        "bad_field",
        "too_large",
        "out_of_memory",
        "not_found",
    ]
    assert bench.core.stats()["contexts"] == 0


def test_prefetches_under_way_are_bounded_and_die_with_their_runner(benches):
    bench = benches(pages=512)
    other = bench.add_runner("r1")
    for i in range(65):
        bench.send(wire.Prefetch("p", "local", Account(), [i] * 12), runner=other)
    bench.core.apply()
    bench.pump()
    assert [error.code for error in other.failed.values()] == ["overloaded"]
    bench.remove_runner(other)
    bench.settle()
    assert (bench.core.stats()["contexts"], bench.owned()) == (0, 0)


def test_a_failed_prefetch_is_forgotten(bench):
    bench.failing = RuntimeError("device")
    bench.send(wire.Prefetch("p", "local", Account(), TOKENS[:22]))
    bench.settle()
    assert (bench.core.stats()["contexts"], bench.core.pool_stats().free) == (0, 64)


# -- found tokens


def test_passes_and_flushes_report_what_they_found(bench):
    rows_of(bench, TOKENS[:22])
    context = bench.create(TOKENS[:18])
    flushed = bench.send(wire.Flush(context, 0))
    passed = bench.send(wire.Forward(context, 0, TOKENS[18:24], [wire.Output(5)]))
    bench.settle()
    assert (bench.runner.cached[flushed], bench.runner.cached[passed]) == (16, 3)


def test_tokens_that_come_back_after_pressure_were_not_cached(benches):
    bench = benches(pages=32)
    context = bench.create(TOKENS[:40])
    bench.send(wire.Flush(context, 0))
    bench.settle()
    rows_of(bench, [1] * 100)
    flushed = bench.send(wire.Flush(context, 0))
    bench.settle()
    assert bench.core.stats()["evictions"] == 1
    assert bench.runner.cached[flushed] == 0
