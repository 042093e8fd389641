"""Random operations of many contexts, accounts and runners against contexts without pages."""

from __future__ import annotations

import itertools

import hypothesis.strategies as st
import pytest
from dense_contexts import Dense, HistoryDevice, answer
from hypothesis import settings
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from pie_engine.limits import Limits
from pie_wire.messages import engine as wire
from pie_wire.messages.common import Account

VOCAB = 97
SIZE = 4
LONGEST = 40
ACCOUNTS = [Account(), Account(salt=b"x"), Account(salt=b"y", page_cap=20)]
NAMES = ["a", "b"]


class Held:
    """A context of the model, and who has it."""

    def __init__(self, number, runner, account, dense) -> None:
        self.number, self.runner, self.account, self.dense = number, runner, account, dense
        self.generation = 0
        self.run = None
        self.committed = 0


class Contexts(RuleBasedStateMachine):
    bench_class: type

    contexts = Bundle("contexts")

    @initialize(pages=st.sampled_from([24, 40, 96]), rows=st.sampled_from([16, 2048]))
    def start(self, pages, rows):
        device = HistoryDevice(pages, SIZE, VOCAB)
        limits = Limits(pages, SIZE, 4096, VOCAB, max_rows=rows, swap_pages=8 * pages, page_bytes=device.page_bytes)
        self.bench = self.bench_class(device, limits)
        self.runners = [self.bench.runner, self.bench.add_runner("r1")]
        self.made = 1
        self.held = []
        self.expected = {}

    # -- lives

    @rule(target=contexts, who=st.integers(0, 1), account=st.sampled_from(ACCOUNTS), data=st.data())
    def create(self, who, account, data):
        tokens = data.draw(st.lists(st.integers(0, 2), max_size=20))
        held = self._enter(self.runners[who], account, Dense())
        self._send(held, wire.Create(held.number, "p", "local", account), wire.Append(held.number, 0, tokens))
        for token in tokens:
            held.dense.push(token)
        return held

    @rule(target=contexts, parent=contexts, data=st.data())
    def fork(self, parent, data):
        if parent not in self.held:
            return multiple()
        dense = self._visible(parent)
        length = data.draw(st.sampled_from([n for n in range(len(dense) + 1) if dense.may_end(n)]))
        child = self._enter(parent.runner, parent.account, dense.head(length))
        child.committed = min(parent.committed, length // SIZE)
        self._send(parent, wire.Fork(child.number, parent.number, parent.generation, length, "p"))
        if parent.run is not None:
            parent.consumed = max(parent.consumed, length - len(parent.dense))
        return child

    @rule(target=contexts, source=contexts, who=st.integers(0, 1), account=st.sampled_from(ACCOUNTS))
    def export_and_import(self, source, who, account):
        if source not in self.held:
            return multiple()
        self.bench.settle(5000)
        dense = self._consumed(source)
        number = self._send(source, wire.Export(source.number, source.generation))
        self.bench.settle(5000)
        buffers = source.runner.exports[number]
        copy = self._enter(self.runners[who], account, dense)
        op = wire.Import(copy.number, "p", "local", account, 0, len(buffers))
        self.bench.send(op, runner=copy.runner, buffers=buffers)
        return copy

    @rule(context=contexts)
    def drop(self, context):
        if context in self.held:
            self.bench.settle(5000)
            self._send(context, wire.Drop(context.number))
            self.held.remove(context)

    @rule(who=st.integers(0, 1))
    def lose_a_runner(self, who):
        """A third of the time or so that this is drawn, so that contexts live for a while."""
        self.made += 1
        if self.made % 3:
            return
        lost = self.runners[who]
        self.bench.remove_runner(lost)
        self.runners[who] = self.bench.add_runner(f"r{self.made}")
        self.held = [held for held in self.held if held.runner is not lost]
        self.expected = {key: token for key, token in self.expected.items() if key[0] != lost.name}

    # -- tokens

    @rule(context=contexts, tokens=st.lists(st.integers(0, 2), min_size=1, max_size=9))
    def append(self, context, tokens):
        if self._free(context, len(tokens)):
            self._send(context, wire.Append(context.number, context.generation, tokens))
            for token in tokens:
                context.dense.push(token)

    @rule(context=contexts, data=st.data())
    def truncate(self, context, data):
        if self._free(context):
            dense = context.dense
            lengths = [n for n in range(context.committed * SIZE, len(dense) + 1) if dense.may_end(n)]
            length = data.draw(st.sampled_from(lengths)) if lengths else len(dense)
            self._send(context, wire.Truncate(context.number, context.generation, length))
            context.dense = dense.head(length)

    @rule(context=contexts, data=st.data())
    def drop_tokens(self, context, data):
        if self._free(context) and len(context.dense) > 1:
            start = data.draw(st.integers(0, len(context.dense) - 2))
            stop = data.draw(st.integers(start + 1, len(context.dense) - 1))
            self._send(context, wire.DropTokens(context.number, context.generation, start, stop))
            context.dense.drop(start, stop)

    @rule(context=contexts, tokens=st.lists(st.integers(0, 2), max_size=7), data=st.data())
    def forward(self, context, tokens, data):
        if not self._free(context, len(tokens)) or not (tokens or len(context.dense)):
            return
        dense, count = context.dense, len(tokens) or 1
        first = len(dense) - (not tokens)
        mask, rows = self._mask(first, count, bool(tokens), dense.hidden, data)
        gap = data.draw(st.sampled_from([0, 0, 1, 5])) if tokens else 0
        base = dense.positions[-1] + 1 if len(dense) else 0
        positions = [base + gap + i for i in range(count)] if gap else []
        asked = data.draw(st.lists(st.integers(0, count - 1), max_size=3))
        outputs = [wire.Output(row) for row in asked]
        op = wire.Forward(context.number, context.generation, tokens, outputs, positions, mask)
        number = self._send(context, op)
        if tokens:
            for i, token in enumerate(tokens):
                place = base + self._depth(mask.parents, i) if mask.kind == "tree" else base + i
                dense.push(token, positions[i] if positions else place, rows[i])
        elif mask.kind != "causal":
            dense.show(range(first + 1) if rows[0] is None else rows[0])
        self.expected[context.runner.name, number] = [answer(dense.kv[first + row], VOCAB) for row in asked]

    # -- runs

    @rule(context=contexts, most=st.integers(1, 12), window=st.sampled_from([2, 5, 100]))
    def open_run(self, context, most, window):
        if self._free(context, most) and len(context.dense):
            self.bench.runs += 1
            op = wire.OpenRun(
                context.number, context.generation, self.bench.runs, wire.SamplerSpec(), 0, [], most, window
            )
            self._send(context, op)
            context.run = self.bench.runs
            context.consumed = 0

    @rule(context=contexts, data=st.data())
    def consume(self, context, data):
        if context in self.held and context.run is not None:
            context.consumed = max(context.consumed, data.draw(st.integers(0, len(self._said(context)))))
            self._send(context, wire.Consume(context.number, context.run, context.consumed))

    @rule(context=contexts, data=st.data())
    def close_run(self, context, data):
        if context in self.held and context.run is not None:
            kept = data.draw(st.integers(context.consumed, len(self._said(context))))
            self._send(context, wire.CloseRun(context.number, context.run, kept))
            for token in self._said(context)[:kept]:
                context.dense.push(token)
            context.run = None

    # -- pages

    @rule(context=contexts)
    def flush(self, context):
        if context in self.held:
            self._send(context, wire.Flush(context.number, context.generation))

    @rule(context=contexts)
    def suspend(self, context):
        if context in self.held:
            self._send(context, wire.Suspend(context.number, context.generation))

    @rule(context=contexts, data=st.data())
    def commit(self, context, data):
        if self._free(context):
            full = len(context.dense) // SIZE - context.committed
            places = context.dense.positions
            if full > 0 and all(a < b for a, b in itertools.pairwise(places)):
                pages = data.draw(st.integers(1, full))
                self._send(context, wire.Commit(context.number, context.generation, pages))
                context.committed += pages

    @rule(context=contexts, name=st.sampled_from(NAMES), ttl=st.sampled_from([0.05, 1.0, 60.0]))
    def pin(self, context, name, ttl):
        if context in self.held:
            self.bench.settle(5000)
            number = self._send(context, wire.Pin(context.number, context.generation, name, ttl))
            self.bench.settle(5000)
            error = context.runner.failed.pop(number, None)
            if error is not None:
                useless = context.dense.hidden or len(context.dense) < SIZE
                assert error.code == ("bad_request" if useless else "out_of_memory")
                context.generation = context.runner.generations[context.number]

    @rule(who=st.integers(0, 1), account=st.sampled_from(ACCOUNTS), name=st.sampled_from(NAMES))
    def unpin(self, who, account, name):
        self.bench.send(wire.Unpin(account, name), runner=self.runners[who])

    @rule(who=st.integers(0, 1), account=st.sampled_from(ACCOUNTS), tokens=st.lists(st.integers(0, 2), max_size=20))
    def prefetch(self, who, account, tokens):
        self.bench.send(wire.Prefetch("p", "local", account, tokens), runner=self.runners[who])

    @rule(steps=st.integers(1, 5))
    def step(self, steps):
        for _ in range(steps):
            self.bench.step()

    # -- what must hold

    @invariant()
    def answers_are_the_oracles(self):
        if not hasattr(self, "bench"):
            return
        for runner in self.runners:
            assert not {n: e for n, e in runner.failed.items() if e.code != "cancelled"}
        for runner in self.runners:
            for number, slots in runner.outputs.items():
                assert [slot.token for slot in slots] == self.expected.pop((runner.name, number))
            runner.outputs.clear()
        for held in self.held:
            if held.run is not None:
                dense = held.dense.head(len(held.dense))
                for token in self._said(held):
                    assert token == answer(dense.kv[-1], VOCAB)
                    dense.push(token)

    def teardown(self):
        if not hasattr(self, "bench"):
            return
        self.bench.settle(5000)
        self.answers_are_the_oracles()
        cancelled = {(runner.name, number) for runner in self.runners for number in runner.failed}
        assert set(self.expected) <= cancelled
        for runner in self.runners:
            assert runner.acked == runner.next_op - 1
        for held in list(self.held):
            self._send(held, wire.Drop(held.number))
        for account in ACCOUNTS:
            for name in NAMES:
                self.bench.send(wire.Unpin(account, name), runner=self.runners[0])
        self.bench.settle(5000)
        stats = self.bench.core.pool_stats()
        assert (stats.owned, stats.free + stats.cached) == (0, stats.total)
        assert self.bench.core.stats()["contexts"] == 0
        super().teardown()

    # -- inside

    def _enter(self, runner, account, dense):
        self.bench.contexts += 1
        held = Held(self.bench.contexts, runner, account, dense)
        self.held.append(held)
        return held

    def _send(self, held, *ops):
        return self.bench.send(*ops, runner=held.runner)

    def _free(self, context, more=0):
        return context in self.held and context.run is None and len(context.dense) + more <= LONGEST

    def _said(self, context):
        return context.runner.tokens.get(context.run, [])

    def _visible(self, context):
        dense = context.dense.head(len(context.dense))
        if context.run is not None:
            for token in self._said(context):
                dense.push(token)
        return dense

    def _consumed(self, context):
        dense = context.dense.head(len(context.dense))
        if context.run is not None:
            for token in self._said(context)[: context.consumed]:
                dense.push(token)
        return dense

    def _depth(self, parents, row):
        return 0 if parents[row] < 0 else 1 + self._depth(parents, parents[row])

    def _mask(self, first, count, fresh, hidden, data):
        """A mask, and per row the slots it shows (None: causal)."""
        kinds = ["causal", "causal", "window", "runs", "tree"] if fresh else ["causal", "causal", "window", "runs"]
        kind = data.draw(st.sampled_from(kinds))
        slots = range(first, first + count)
        if kind == "causal":
            return wire.Mask(), [None] * count
        if kind == "window":
            window, sink = data.draw(st.integers(1, 6)), data.draw(st.integers(0, 3))
            shown = [[s for s in range(slot + 1) if s < sink or s > slot - window] for slot in slots]
            return wire.Mask("window", window, sink), shown
        if kind == "tree":
            parents = [data.draw(st.integers(-1, row - 1)) for row in range(count)]
            shown = []
            for row in range(count):
                seen, at = set(range(first)), row
                while at >= 0:
                    seen.add(first + at)
                    at = parents[at]
                shown.append(seen)
            return wire.Mask("tree", parents=parents), shown
        shown = [{slot, *data.draw(st.sets(st.integers(0, slot), max_size=6))} for slot in slots]
        runs = []
        for seen in shown:
            lengths, state = [0], False
            for slot in range(max(seen) + 1):
                if (slot in seen) != state:
                    lengths.append(0)
                    state = not state
                lengths[-1] += 1
            runs.append(lengths)
        return wire.Mask("runs", runs=runs), shown


def test_operations_against_contexts_without_pages(bench):
    Contexts.bench_class = type(bench)
    run_state_machine_as_test(Contexts, settings=settings(max_examples=60, stateful_step_count=50))


@pytest.mark.slow
def test_thousands_of_operations(bench):
    Contexts.bench_class = type(bench)
    run_state_machine_as_test(Contexts, settings=settings(max_examples=300, stateful_step_count=80))
