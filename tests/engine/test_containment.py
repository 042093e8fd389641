"""A bug of the engine, wherever in an operation or in the delivery of results, ends one context and nothing else."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FunctionType

import pytest
from pie_engine.adapters.spans import AdapterSpans
from pie_engine.contexts.births import Births
from pie_engine.contexts.containment import Containment
from pie_engine.contexts.context_table import ContextTable
from pie_engine.contexts.ends import Ends
from pie_engine.contexts.lineage import Lineage
from pie_engine.contexts.page_operations import PageOperations
from pie_engine.contexts.pins import Pins
from pie_engine.contexts.transfers import Transfers
from pie_engine.contexts.works import Works
from pie_engine.core import EngineCore
from pie_engine.links.outbox import Outbox
from pie_engine.memory.kv_cache import KvCache
from pie_engine.memory.pages import PagePool
from pie_engine.runs.run_operations import RunOperations
from pie_wire.messages import engine as wire
from pie_wire.messages.common import Account
from structlog.testing import capture_logs

STRUCK = (
    AdapterSpans, Births, ContextTable, Ends, KvCache, Lineage, Outbox, PageOperations, PagePool, Pins, RunOperations,
    Transfers, Works,
)  # fmt: skip
QUIET = {"_step", "check_integrity", "compiled", "take"}
"""Not part of carrying out an operation: checks, and looks that are made in every step."""


class BugError(Exception):
    """What nobody expects."""


@dataclass
class Fault:
    """Raises BugError at one call of the functions in STRUCK, while an operation or a result is being dealt with."""

    at: int | None
    late: bool = False
    """After the call has done its work."""
    armed: bool = False
    calls: int = 0
    struck: str = ""

    def strikes(self, name: str) -> bool:
        """This call is the one."""
        if not self.armed:
            return False
        self.calls += 1
        if self.calls != self.at:
            return False
        self.struck = name
        return True


@pytest.fixture
def faults(monkeypatch) -> list[Fault]:
    """The last fault of the list is in force."""
    present: list[Fault] = [Fault(None)]

    def faulty(name: str, function: Callable) -> Callable:
        def wrapper(*args, **kwargs):
            fault = present[-1]
            if fault.strikes(name):
                if fault.late:
                    function(*args, **kwargs)
                fault.armed = False
                raise BugError(name)
            return function(*args, **kwargs)

        return wrapper

    def within(function: Callable, *, armed: bool) -> Callable:
        def wrapper(*args, **kwargs):
            fault = present[-1]
            before, fault.armed = fault.armed, armed and not fault.struck
            try:
                return function(*args, **kwargs)
            finally:
                fault.armed = before

        return wrapper

    for kind in STRUCK:
        for name, function in list(vars(kind).items()):
            if isinstance(function, FunctionType) and name not in QUIET and not name.startswith("__"):
                monkeypatch.setattr(kind, name, faulty(f"{kind.__name__}.{name}", function))
    for name in ("apply", "finish", "fail"):
        monkeypatch.setattr(EngineCore, name, within(getattr(EngineCore, name), armed=True))
    for name in ("operation", "turn", "work", "lose", "elsewhere"):
        monkeypatch.setattr(Containment, name, within(getattr(Containment, name), armed=False))
    return present


@dataclass
class Story:
    """Programs of two runners that do a bit of everything. Whatever goes wrong, they send the same."""

    bench: object
    contexts: dict[int, int] = field(default_factory=dict)
    """Of each operation."""
    parents: dict[int, int] = field(default_factory=dict)

    def send(self, op: wire.Op, **options) -> int:
        number = self.bench.send(op, **options)
        if not options.get("runner"):
            self.contexts[number] = getattr(op, "context", 0)
            if isinstance(op, wire.Fork):
                self.parents[op.context] = op.parent
        return number

    def tell(self) -> None:
        bench, send = self.bench, self.send
        account = Account(salt=b"s")
        prompt = [5, 3, 8, 1, 9, 2, 7, 4, 6, 11]
        for context in (1, 2, 3, 4):
            send(wire.Create(context, "p", "local", account))
            send(wire.Append(context, 0, [*prompt, context] if context > 1 else prompt))
        send(wire.Flush(1, 0))
        send(wire.Fork(5, 1, 0, 9, "p"))
        send(wire.Forward(5, 0, [1, 2], [wire.Output(1), wire.Output(0, "logits")]))
        send(wire.OpenRun(1, 0, 1, wire.SamplerSpec(), 0, [], 12, 6))
        send(wire.OpenRun(2, 0, 2, wire.SamplerSpec(1.0), 7, [], 9, 99, wire.Speculation(ngram=2)))
        for _ in range(3):
            bench.step()
        send(wire.Consume(1, 1, 2))
        send(wire.Fork(6, 1, 0, 12, "p"))
        send(wire.Export(1, 0))
        send(wire.Pin(1, 0, "here", 60.0))
        send(wire.Verify(5, 0, [3, 4, 5], [-1, 0, -1], wire.Output(0)))
        send(wire.Reserve(3, 0, 4))
        send(wire.Commit(3, 0, 2))
        send(wire.Append(3, 0, [1, 2, 3]))
        send(wire.Release(3, 0, 1))
        send(wire.SetAdapters(4, 0, [wire.AdapterUse("a", 1.0)]))
        send(wire.Forward(4, 0, [7, 7, 7], [wire.Output(2)]))
        send(wire.Suspend(2, 0))
        bench.step()
        send(wire.DropTokens(6, 0, 1, 7))
        send(wire.Forward(6, 0, [9], [wire.Output(0)]))
        send(wire.Truncate(5, 0, 4))
        send(wire.Fork(7, 5, 0, 3, "p"))
        send(wire.Fork(8, 7, 0, 2, "p"))
        send(wire.Suspend(6, 0))
        send(wire.Prefetch("p", "local", account, [1, 2, 3, 4, 5, 6, 7, 8]))
        bench.settle(500)
        send(wire.CloseRun(1, 1, 3))
        send(wire.Consume(2, 2, 2))
        bench.settle(500)
        send(wire.CloseRun(2, 2, 5))
        send(wire.Drop(7))
        send(wire.Unpin(account, "here"))
        bench.failing = RuntimeError("device")
        send(wire.Flush(8, 0))
        send(wire.Forward(8, 0, [3], [wire.Output(0)]))
        bench.step()
        bench.failing = None
        for context in (1, 2, 3, 4, 5, 6, 8):
            generation = 1 if context == 8 else 0
            send(wire.Append(context, generation, [context]))
            send(wire.Forward(context, generation, [1], [wire.Output(0), wire.Output(0, "top", top=3)]))
        bench.settle(500)

    def struck(self) -> set[int]:
        """Contexts that failed with the bug, without those that could only fail since their parent did."""
        failed = {self.contexts[n] for n, error in self.bench.runner.failed.items() if error.code == "internal"}
        return {context for context in failed if not failed.intersection(self.ancestors(context))}

    def ancestors(self, context: int) -> list[int]:
        """The parent, its parent, and so on."""
        parent = self.parents.get(context)
        return [] if parent is None else [parent, *self.ancestors(parent)]


@pytest.fixture
def stories(benches, faults) -> Callable[[Fault], Story]:
    """Tell the story with a fault."""

    def tell(fault: Fault) -> Story:
        faults.append(Fault(None))
        bench = benches(pages=40, max_rows=24, swap_pages=40)
        bench.device.adapters.folders["/a"] = b"content"
        bench.ask(wire.LoadAdapter("a", "/a"))
        faults.append(fault)
        story = Story(bench)
        story.tell()
        faults.append(Fault(None))
        return story

    return tell


def check(struck: Story, told: Story) -> None:
    """One context at most has ended; the others' programs have got what they get without a fault."""
    runner, right = struck.bench.runner, told.bench.runner
    dead = struck.struck()
    assert len(dead) <= 1
    for number, context in struck.contexts.items():
        if dead.intersection([context, *struck.ancestors(context)]):
            continue
        assert runner.failed.get(number) == right.failed.get(number)
        assert runner.outputs.get(number) == right.outputs.get(number)
        assert runner.buffers.get(number) == right.buffers.get(number)
        assert runner.exports.get(number) == right.exports.get(number)
        assert (number in runner.flushed) == (number in right.flushed)
    for run in (1, 2):
        tokens, got = right.tokens[run], runner.tokens.get(run, [])
        assert got == (tokens[: len(got)] if run in dead else tokens)
    assert runner.acked == runner.next_op - 1


def check_nothing_is_left(story: Story) -> None:
    bench = story.bench
    for context in range(1, 9):
        story.send(wire.Drop(context))
    bench.now += 100.0
    bench.settle(500)
    stats = bench.core.stats()
    assert {stats[name] for name in ("pages_owned", "pages_pinned", "swap_owned", "contexts", "active")} == {0}
    assert [info.users for info in bench.ask(wire.ListAdapters()).adapters] == [0]
    assert not bench.core._table._accounts
    bench.runs = 100
    run = bench.open_run(bench.create([1, 2, 3]), 4)
    bench.settle()
    assert len(bench.runner.tokens[run]) == 4


def tell_with_faults(stories, pick: Callable[[int], list[Fault]]) -> set[str]:
    """`pick` gives faults among so many calls. Returns which functions were struck."""
    counting = Fault(None)
    told = stories(counting)
    assert {error.code for error in told.bench.runner.failed.values()} == {"device_error"}
    check_nothing_is_left(told)
    struck = set()
    for fault in pick(counting.calls):
        with capture_logs() as logs:
            story = stories(fault)
        bugs = [entry for entry in logs if "a bug" in entry["event"]]
        assert len(bugs) == 1, fault
        assert isinstance(bugs[0]["exc_info"], BugError)
        check(story, told)
        check_nothing_is_left(story)
        struck.add(fault.struck)
    return struck


def test_a_bug_ends_one_context(stories):
    def some(calls: int) -> list[Fault]:
        return [Fault(at, late=at % 2 == 1) for at in random.Random(2).sample(range(1, calls + 1), 60)]

    assert len(tell_with_faults(stories, some)) > 20


@pytest.mark.slow
@pytest.mark.parametrize("late", [False, True])
def test_a_bug_anywhere_ends_one_context(stories, late):
    assert len(tell_with_faults(stories, lambda calls: [Fault(at, late) for at in range(1 + late, calls + 1, 2)])) > 40


def test_what_a_struck_context_had_in_the_tier_is_given_up_once(benches, monkeypatch):
    bench = benches(pages=16, swap_pages=6)
    first, second = bench.create(list(range(1, 23))), bench.create(list(range(31, 53)))
    bench.send(wire.Flush(second, 0), wire.Flush(first, 0), wire.Suspend(first, 0))
    bench.settle()
    assert bench.core.stats()["swap_owned"] == 6

    def strike(*_: object) -> None:
        raise BugError

    with monkeypatch.context() as patch, capture_logs():
        patch.setattr(Ends, "free", strike)
        bench.send(wire.Drop(first))
        bench.core.apply()
    assert bench.core.stats()["swap_owned"] == 0
    bench.send(wire.Suspend(second, 0))
    bench.settle()
    away = [context for context in bench.core._eviction._away if context.swapped is not None]
    assert [context.id for context in away] == [second]


def test_a_runner_that_cannot_be_told_anything_is_given_up(bench, monkeypatch):
    other = bench.add_runner("r1")
    bench.send(wire.Create(1, "p", "local", Account()), wire.Append(1, 0, [1, 2, 3]), runner=other)
    kept = bench.open_run(bench.create([1, 2, 3]), 4)
    bench.step()
    broken = bench.core._links._links[next(peer for peer in bench.hub.peers() if peer.name == "r1")].outbox

    def take(outbox: Outbox, acked: int, *, alone: bool = True) -> list:
        if outbox is broken:
            raise BugError("take")
        return right(outbox, acked, alone=alone)

    right = Outbox.take
    monkeypatch.setattr(Outbox, "take", take)
    bench.step()
    assert [peer.name for peer in bench.hub.peers()] == ["r0"]
    del bench.runners[b"r1"]
    bench.settle()
    assert len(bench.runner.tokens[kept]) == 4
    assert bench.core.stats()["contexts"] == 1


def test_a_request_that_meets_a_bug_is_answered(bench, monkeypatch):
    def broken(*_: object) -> None:
        raise BugError("here")

    context = bench.create([1, 2, 3])
    monkeypatch.setattr(ContextTable, "share_of", broken)
    assert bench.ask(wire.GetStanding([context])).code == "internal"
    run = bench.open_run(context, 4)
    bench.settle()
    assert len(bench.runner.tokens[run]) == 4
