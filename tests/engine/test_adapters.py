"""Adapters in the core: names and versions, which token has which, what is shared, what is freed."""

from __future__ import annotations

import pytest
from pie_engine.adapters.spans import PLAIN, AdapterSet, AdapterSpans, AdapterVersion
from pie_engine.adapters.table import MAX_ADAPTERS, AdapterTable
from pie_engine.passes.build import build
from pie_engine.passes.device import AdapterFacts
from pie_engine.passes.outputs import Sampler
from pie_engine.passes.segment import Segment
from pie_engine.simulation.simulated import next_token
from pie_engine.simulation.simulated_adapters import SimulatedAdapter, mark_of, marked
from pie_wire.errors import PieError
from pie_wire.messages import engine as wire
from pie_wire.messages.common import Account

VOCAB = 97


def prompt(length: int, start: int = 1) -> list[int]:
    return [(start * 31 + 7 * i) % VOCAB for i in range(length)]


def mark(*adapters: tuple[bytes, float]) -> int:
    return mark_of((SimulatedAdapter(content).facts.digest, weight) for content, weight in adapters)


def continuation(tokens: list[int], count: int, marks: list[tuple[int, int]]) -> list[int]:
    """A dense model's answer; `marks` has (first token, mark), ascending."""

    def mark_at(index: int) -> int:
        return next((m for start, m in reversed(marks) if start <= index), 0)

    known = list(tokens)
    for _ in range(count):
        seen = [marked(token, mark_at(index)) for index, token in enumerate(known)]
        own = mark_at(len(known) - 1)
        known.append(next_token([*seen, own] if own else seen, Sampler(), len(known), VOCAB))
    return known[len(tokens) :]


@pytest.fixture
def adapted(bench):
    """A bench with two adapters, `a` and `b`."""
    bench.device.adapters.folders |= {"/a": b"content a", "/b": b"content b", "/a2": b"content of another a"}
    for name in ("a", "b"):
        assert isinstance(bench.ask(wire.LoadAdapter(name, f"/{name}")), wire.AdapterInfo)
    return bench


def use(*adapters: tuple[str, float]) -> list[wire.AdapterUse]:
    return [wire.AdapterUse(name, weight) for name, weight in adapters]


A = mark((b"content a", 1.0))
B = mark((b"content b", 1.0))
A2 = mark((b"content of another a", 1.0))


# -- which token has which


def test_adapters_set_before_the_prompt_apply_to_all(adapted):
    context = adapted.create()
    adapted.send(wire.SetAdapters(context, 0, use(("a", 1.0))), wire.Append(context, 0, prompt(9)))
    run = adapted.open_run(context, 6)
    adapted.settle()
    assert adapted.runner.tokens[run] == continuation(prompt(9), 6, [(0, A)])


@pytest.mark.parametrize("first", ["flush", "forward", "nothing"])
@pytest.mark.parametrize("length", [1, 7, 8, 9])
def test_adapters_set_behind_a_prompt_apply_from_its_last_token(adapted, length, first):
    """Whether or not its KV was there already."""
    context = adapted.create()
    tokens = prompt(length)
    match first:
        case "flush":
            adapted.send(wire.Append(context, 0, tokens), wire.Flush(context, 0))
        case "forward":
            adapted.send(wire.Forward(context, 0, tokens, []))
        case _:
            adapted.send(wire.Append(context, 0, tokens))
    adapted.settle()
    adapted.send(wire.SetAdapters(context, 0, use(("a", 1.0))))
    run = adapted.open_run(context, 6)
    adapted.settle()
    assert adapted.runner.tokens[run] == continuation(tokens, 6, [(length - 1, A)])


def test_several_spans_computed_at_once_and_again_under_pressure(benches):
    bench = benches(pages=14)
    bench.device.adapters.folders |= {"/a": b"content a", "/b": b"content b"}
    for name in ("a", "b"):
        bench.ask(wire.LoadAdapter(name, f"/{name}"))
    runs = {}
    for index in range(3):
        context = bench.create(prompt(6, index))
        bench.send(
            wire.SetAdapters(context, 0, use(("a", 1.0))),
            wire.Append(context, 0, prompt(7, index)),
            wire.SetAdapters(context, 0, use(("b", 1.0))),
            wire.Append(context, 0, prompt(5, index)),
            wire.SetAdapters(context, 0, []),
        )
        runs[bench.open_run(context, 8)] = prompt(6, index) + prompt(7, index) + prompt(5, index)
    bench.settle()
    assert bench.core.stats()["evictions"] > 0
    for run, tokens in runs.items():
        assert bench.runner.tokens[run] == continuation(tokens, 8, [(5, A), (12, B), (17, 0)])


def test_weights_are_part_of_the_set_and_order_is_not(adapted):
    both = mark((b"content a", 0.5), (b"content b", 2.0))
    for asked in (use(("a", 0.5), ("b", 2.0)), use(("b", 2.0), ("a", 0.5))):
        context = adapted.create()
        adapted.send(wire.SetAdapters(context, 0, asked), wire.Append(context, 0, prompt(9)))
        run = adapted.open_run(context, 4)
        adapted.settle()
        assert adapted.runner.tokens[run] == continuation(prompt(9), 4, [(0, both)])


@pytest.mark.parametrize("weight", [1e38, -1001.0, float("nan"), float("inf")])
def test_a_weight_that_makes_no_numbers_is_refused(adapted, weight):
    number = adapted.send(wire.SetAdapters(adapted.create(prompt(3)), 0, use(("a", weight))))
    adapted.settle()
    assert adapted.runner.failed[number].code == "bad_field"
    assert "up to 1000 either way" in adapted.runner.failed[number].message


def test_a_batch_of_none_one_and_two_is_as_each_alone(adapted):
    cases = {(): 0, (("a", 1.0),): A, (("a", 0.5), ("b", 2.0)): mark((b"content a", 0.5), (b"content b", 2.0))}
    runs = {}
    for asked, expected in cases.items():
        context = adapted.create()
        adapted.send(wire.SetAdapters(context, 0, use(*asked)), wire.Append(context, 0, prompt(9)))
        runs[adapted.open_run(context, 6)] = expected
    adapted.settle()
    for run, expected in runs.items():
        assert adapted.runner.tokens[run] == continuation(prompt(9), 6, [(0, expected)])


def test_a_forward_pass_has_the_contexts_adapters(adapted):
    context = adapted.create(prompt(5))
    adapted.send(wire.SetAdapters(context, 0, use(("a", 1.0))))
    number = adapted.send(wire.Forward(context, 0, prompt(3, 2), [wire.Output(2)]))
    adapted.settle()
    answer = adapted.runner.outputs[number][0].token
    assert [answer] == continuation(prompt(5) + prompt(3, 2), 1, [(4, A)])


def test_fork_and_truncate_go_back_to_the_adapters_of_that_point(adapted):
    parent = adapted.create(prompt(10))
    adapted.send(wire.SetAdapters(parent, 0, use(("a", 1.0))), wire.Append(parent, 0, prompt(6, 2)))
    before, after = adapted.contexts + 1, adapted.contexts + 2
    adapted.contexts += 2
    adapted.send(wire.Fork(before, parent, 0, 9, "p"), wire.Fork(after, parent, 0, 12, "p"))
    adapted.send(wire.Truncate(parent, 0, 10))
    runs = [adapted.open_run(context, 5) for context in (before, after, parent)]
    adapted.settle()
    whole = prompt(10) + prompt(6, 2)
    said = [adapted.runner.tokens[run] for run in runs]
    assert said[0] == continuation(whole[:9], 5, [])
    assert said[1] == continuation(whole[:12], 5, [(9, A)])
    assert said[2] == continuation(whole[:10], 5, [(9, A)])


# -- what is shared


def test_pages_are_shared_among_equal_sets_only(adapted):
    def cached(asked: list[wire.AdapterUse]) -> int:
        context = adapted.create()
        adapted.send(wire.SetAdapters(context, 0, asked), wire.Append(context, 0, prompt(20)))
        run = adapted.open_run(context, 1)
        adapted.settle()
        adapted.send(wire.Drop(context))
        return adapted.runner.ends[run].cached_tokens

    asked = [[], use(("a", 1.0)), use(("a", 0.5)), use(("b", 1.0)), use(("a", 1.0), ("b", 1.0))]
    assert [cached(uses) for uses in asked] == [0] * 5
    assert [cached(uses) for uses in asked] == [20] * 5


def test_a_prefix_before_the_adapter_is_shared_with_plain_contexts(adapted):
    adapted.send(wire.Flush(adapted.create(prompt(21)), 0))
    adapted.settle()
    context = adapted.create(prompt(13))
    adapted.send(wire.SetAdapters(context, 0, use(("a", 1.0))), wire.Append(context, 0, prompt(21)[13:]))
    run = adapted.open_run(context, 3)
    adapted.settle()
    assert adapted.runner.ends[run].cached_tokens == 12
    assert adapted.runner.tokens[run] == continuation(prompt(21), 3, [(12, A)])


# -- versions


def test_a_name_loaded_again_is_a_new_version_and_the_old_one_stays_while_used(adapted):
    old = adapted.create()
    adapted.send(wire.SetAdapters(old, 0, use(("a", 1.0))), wire.Append(old, 0, prompt(9)))
    adapted.settle()
    digest = adapted.ask(wire.ListAdapters()).adapters[0].digest
    adapted.ask(wire.LoadAdapter("a", "/a2"))
    new, exact = adapted.create(), adapted.create()
    adapted.send(wire.SetAdapters(new, 0, use(("a", 1.0))), wire.Append(new, 0, prompt(9)))
    adapted.send(wire.SetAdapters(exact, 0, [wire.AdapterUse(f"a@{digest[:12]}")]), wire.Append(exact, 0, prompt(9)))
    runs = [adapted.open_run(context, 5) for context in (old, new, exact)]
    adapted.settle()
    expected = [continuation(prompt(9), 5, [(0, m)]) for m in (A, A2, A)]
    assert [adapted.runner.tokens[run] for run in runs] == expected
    listed = adapted.ask(wire.ListAdapters()).adapters
    assert [(v.name, v.state, v.users) for v in listed] == [
        ("a", "superseded", 2),
        ("b", "current", 0),
        ("a", "current", 1),
    ]
    adapted.send(wire.Drop(old), wire.Drop(exact))
    adapted.step()
    assert [(v.name, v.state) for v in adapted.ask(wire.ListAdapters()).adapters] == [
        ("b", "current"),
        ("a", "current"),
    ]
    assert len(adapted.device.adapters.kept) == 2


def test_the_same_content_again_is_the_same_version(adapted):
    before = adapted.ask(wire.ListAdapters())
    assert adapted.ask(wire.LoadAdapter("a", "/a")) == before.adapters[0]
    assert adapted.ask(wire.ListAdapters()) == before


def test_unloaded_while_in_use_goes_on_and_is_freed_behind_its_last_user(adapted):
    context = adapted.create(prompt(9))
    adapted.send(wire.SetAdapters(context, 0, use(("a", 1.0))))
    adapted.settle()
    gone = adapted.ask(wire.UnloadAdapter("a"))
    assert [(v.state, v.users) for v in gone.adapters] == [("unloaded", 1)]
    late = adapted.create(prompt(3))
    refused = adapted.send(wire.SetAdapters(late, 0, use(("a", 1.0))))
    child = adapted.contexts = adapted.contexts + 1
    adapted.send(wire.Fork(child, context, 0, 9, "p"), wire.Drop(context))
    run = adapted.open_run(child, 4)
    adapted.settle()
    assert adapted.runner.failed[refused].code == "not_found"
    assert adapted.runner.tokens[run] == continuation(prompt(9), 4, [(8, A)])
    assert len(adapted.device.adapters.kept) == 2
    adapted.send(wire.Drop(child))
    adapted.step()
    adapted.step()
    assert len(adapted.device.adapters.kept) == 1
    assert adapted.ask(wire.ListAdapters()).used == len(b"content b")


def test_unload_then_load_gives_the_same_answers(adapted):
    said = []
    for _ in range(2):
        context = adapted.create()
        adapted.send(wire.SetAdapters(context, 0, use(("a", 1.0))), wire.Append(context, 0, prompt(9)))
        run = adapted.open_run(context, 5)
        adapted.settle()
        said.append(adapted.runner.tokens[run])
        adapted.send(wire.Drop(context))
        adapted.ask(wire.UnloadAdapter("a"))
        assert len(adapted.device.adapters.kept) == 1
        adapted.ask(wire.LoadAdapter("a", "/a"))
    assert said[0] == said[1] == continuation(prompt(9), 5, [(0, A)])


def test_a_runner_that_goes_lets_go_of_its_adapters(adapted):
    other = adapted.add_runner("r1")
    adapted.send(wire.Create(1, "p", "local", Account()), wire.SetAdapters(1, 0, use(("a", 1.0))), runner=other)
    adapted.settle()
    adapted.ask(wire.UnloadAdapter("a"))
    adapted.remove_runner(other)
    adapted.step()
    assert len(adapted.device.adapters.kept) == 1


# -- bad input


@pytest.mark.parametrize(
    ("uses", "code"),
    [
        (use(("c", 1.0)), "not_found"),
        (use(("a@00000000", 1.0)), "not_found"),
        (use(("a@xyz", 1.0)), "bad_field"),
        (use(("a", float("nan"))), "bad_field"),
        (use(("a", float("inf"))), "bad_field"),
        (use(("a", 1.0), ("a", 0.5)), "bad_field"),
        (use(*[("a", 1.0)] * (MAX_ADAPTERS + 1)), "too_large"),
    ],
)
def test_bad_sets_leave_the_context_as_it_was(adapted, uses, code):
    context = adapted.create(prompt(9))
    number = adapted.send(wire.SetAdapters(context, 0, uses))
    run = adapted.open_run(context, 4, generation=1)
    adapted.settle()
    assert adapted.runner.failed[number].code == code
    assert adapted.runner.tokens[run] == continuation(prompt(9), 4, [])
    assert all(v.users == 0 for v in adapted.ask(wire.ListAdapters()).adapters)


def test_a_set_during_a_run_is_a_conflict(adapted):
    context = adapted.create(prompt(9))
    adapted.open_run(context, 4)
    number = adapted.send(wire.SetAdapters(context, 0, use(("a", 1.0))))
    adapted.settle()
    assert adapted.runner.failed[number].code == "conflict"


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (wire.LoadAdapter("c", "/nowhere"), "not_found"),
        (wire.LoadAdapter("a@b", "/a"), "bad_field"),
        (wire.LoadAdapter("", "/a"), "bad_field"),
        (wire.LoadAdapter("c", "/huge"), "out_of_memory"),
        (wire.UnloadAdapter("c"), "not_found"),
        (wire.UnloadAdapter("a@00000000"), "not_found"),
    ],
)
def test_bad_requests_change_nothing(benches, request_, code):
    bench = benches(adapter_memory=64)
    bench.device.adapters.folders |= {"/a": b"content a", "/huge": bytes(56)}
    bench.ask(wire.LoadAdapter("a", "/a"))
    before = bench.ask(wire.ListAdapters())
    answer = bench.ask(request_)
    assert isinstance(answer, PieError)
    assert answer.code == code
    assert bench.ask(wire.ListAdapters()) == before
    assert len(bench.device.adapters.kept) == 1


def test_a_short_digest_of_two_versions_is_a_conflict():
    table = AdapterTable(100)
    for last in (1, 2):
        version, _ = table.add("a", AdapterFacts(bytes(15) + bytes([last]), 1, 1, 1))
        version.users = 1
    with pytest.raises(PieError, match="2 versions"):
        table.find("a@00000000")
    assert table.find("a@" + "0" * 31 + "1").state == "superseded"


# -- spans


def test_spans_count_users_and_name_content():
    one, two = (AdapterSet(((AdapterVersion("x", bytes([n]) * 16, n, 1, 1, 1), 1.0),)) for n in (1, 2))
    spans = AdapterSpans()
    spans.begin(0, one)
    spans.begin(6, two)
    spans.begin(10, PLAIN)
    assert [spans.at(i).slots for i in (0, 5, 6, 9, 10)] == [one.slots, one.slots, two.slots, two.slots, ()]
    assert [spans.border(i) for i in (0, 6, 10)] == [6, 10, None]
    copied = spans.copy(6)
    assert copied.at(99).slots == one.slots
    assert copied.identity(0, 8) != spans.identity(0, 8) != spans.identity(4, 8)
    assert spans.identity(12, 16) == b""
    spans.cut(0)
    assert [version.users for ((version, _),) in (one.members, two.members)] == [2, 0]
    copied.release()
    spans.release()
    assert one.members[0][0].users == 0


def test_batches_group_rows_by_set():
    def segment(count: int, page: int, adapters: tuple[tuple[int, float], ...]) -> Segment:
        return Segment([1] * count, range(count), 0, [page], adapters=adapters)

    both = ((1, 0.5), (2, 1.0))
    batch = build(
        [segment(2, 0, both), segment(1, 1, ()), segment(1, 2, ((1, 1.0),)), segment(2, 3, both)],
        page_size=4,
        scratch_page=9,
    )
    assert [(group.adapters, group.rows.tolist()) for group in batch.adapted] == [
        (both, [0, 1, 4, 5]),
        (((1, 1.0),), [3]),
    ]
