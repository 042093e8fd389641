"""Random operations of many contexts against a dense model of what each context holds, on pools of every tightness."""

from __future__ import annotations

from collections.abc import Callable

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from pie_engine.passes.outputs import Sampler
from pie_engine.simulation.simulated import next_token
from pie_engine.simulation.simulated_adapters import marked
from pie_wire.messages import engine as wire
from pie_wire.messages.common import Account
from test_adapters import mark

VOCAB = 97
SAMPLER = wire.SamplerSpec(1.0)


def after(tokens: list[int], marks: list[int], seed: int) -> int:
    """The token behind these, which adapters have marked."""
    seen = [marked(token, mark) for token, mark in zip(tokens, marks, strict=True)]
    return next_token([*seen, marks[-1]] if marks[-1] else seen, Sampler(1.0, seed=seed), len(tokens), VOCAB)


def continuation(tokens: list[int], marks: list[int], coming: int, count: int, seed: int) -> list[int]:
    known, marks = list(tokens), list(marks)
    for _ in range(count):
        known.append(after(known, marks, seed))
        marks.append(coming)
    return known[len(tokens) :]


class Contexts(RuleBasedStateMachine):
    """The model: per context its tokens, and for an open run where it began."""

    make_bench: Callable

    contexts = Bundle("contexts")

    def __init__(self) -> None:
        super().__init__()
        self.tokens: dict[int, list[int]] = {}
        self.marks: dict[int, list[int]] = {}
        """What the adapters of each token make of it."""
        self.coming: dict[int, int] = {}
        """The same of tokens still to come."""
        self.open: dict[int, tuple[int, int]] = {}
        self.consumed: dict[int, int] = {}
        self.passes: dict[int, list[int]] = {}

    @initialize(
        pages=st.sampled_from([16, 24, 64]), rows=st.sampled_from([16, 40, 2048]), swap=st.sampled_from([0, 12, 200])
    )
    def start(self, pages: int, rows: int, swap: int) -> None:
        self.bench = type(self).make_bench(pages=pages, max_rows=rows, swap_pages=swap)
        self.longest = 40
        self.bench.device.adapters.folders |= {"/a": b"content a", "/b": b"content b"}
        for name in ("a", "b"):
            self.bench.ask(wire.LoadAdapter(name, f"/{name}"))

    @rule(target=contexts, length=st.integers(1, 20), start=st.integers(0, 2))
    def create(self, length: int, start: int):
        tokens = [(start * 31 + 7 * i) % VOCAB for i in range(length)]
        context = self.bench.create(tokens, Account(salt=bytes([start])))
        self.tokens[context], self.marks[context], self.coming[context] = tokens, [0] * length, 0
        return context

    @rule(target=contexts, parent=contexts, data=st.data())
    def fork(self, parent: int, data):
        if parent not in self.tokens:
            return multiple()
        tokens = self._visible(parent)
        length = data.draw(st.integers(0, len(tokens)))
        child = self.bench.contexts = self.bench.contexts + 1
        self.bench.send(wire.Fork(child, parent, 0, length, "p"))
        self.tokens[child] = tokens[:length]
        marks = self.marks[parent] + [self.coming[parent]] * (len(tokens) - len(self.marks[parent]))
        self.marks[child], self.coming[child] = _cut(marks, self.coming[parent], length)
        if parent in self.open:
            self.consumed[parent] = max(self.consumed[parent], length - self.open[parent][1])
        return child

    @rule(context=contexts, tokens=st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=9))
    def append(self, context: int, tokens: list[int]) -> None:
        if self._closed(context) and len(self.tokens[context]) + len(tokens) <= self.longest:
            self.bench.send(wire.Append(context, 0, tokens))
            self._extend(context, tokens)

    @rule(context=contexts, chosen=st.sampled_from([(), (("a", 1.0),), (("b", 0.5), ("a", 2.0))]))
    def set_adapters(self, context: int, chosen: tuple[tuple[str, float], ...]) -> None:
        if self._closed(context):
            uses = [wire.AdapterUse(name, weight) for name, weight in chosen]
            self.bench.send(wire.SetAdapters(context, 0, uses))
            self.coming[context] = mark(*((b"content " + name.encode(), weight) for name, weight in chosen))
            self.marks[context][-1:] = [self.coming[context]] * bool(self.tokens[context])

    @rule(context=contexts, data=st.data())
    def truncate(self, context: int, data) -> None:
        if self._closed(context):
            length = data.draw(st.integers(0, len(self.tokens[context])))
            self.bench.send(wire.Truncate(context, 0, length))
            del self.tokens[context][length:]
            self.marks[context], self.coming[context] = _cut(self.marks[context], self.coming[context], length)

    @rule(context=contexts)
    def flush(self, context: int) -> None:
        if context in self.tokens:
            self.bench.send(wire.Flush(context, 0))

    @rule(context=contexts, tokens=st.lists(st.integers(0, VOCAB - 1), max_size=9), data=st.data())
    def forward(self, context: int, tokens: list[int], data) -> None:
        if not self._closed(context) or len(self.tokens[context]) + len(tokens) > self.longest:
            return
        if not tokens and not self.tokens[context]:
            return
        rows = data.draw(st.lists(st.integers(0, max(0, len(tokens) - 1)), max_size=4))
        outputs = [wire.Output(row, "token", SAMPLER, 3) for row in rows]
        number = self.bench.send(wire.Forward(context, 0, tokens, outputs))
        before = len(self.tokens[context])
        self._extend(context, tokens)
        whole, marks = self.tokens[context], self.marks[context]
        upto = [before + row + 1 if tokens else before for row in rows]
        self.passes[number] = [after(whole[:n], marks[:n], 3) for n in upto]

    @rule(context=contexts, most=st.integers(1, 12), window=st.sampled_from([2, 5, 100]))
    def open_run(self, context: int, most: int, window: int) -> None:
        if self._closed(context) and self.tokens[context] and len(self.tokens[context]) + most <= self.longest:
            run = self.bench.open_run(context, most, window=window, sampler=SAMPLER, seed=context)
            self.open[context] = (run, len(self.tokens[context]))
            self.consumed[context] = 0

    @rule(context=contexts, data=st.data())
    def consume(self, context: int, data) -> None:
        if context in self.open:
            run, _ = self.open[context]
            have = len(self.bench.runner.tokens.get(run, []))
            count = data.draw(st.integers(0, have))
            self.bench.send(wire.Consume(context, run, count))
            self.consumed[context] = max(self.consumed[context], count)

    @rule(context=contexts, data=st.data())
    def close_run(self, context: int, data) -> None:
        if context in self.open:
            run, start = self.open.pop(context)
            have = self.bench.runner.tokens.get(run, [])
            kept = data.draw(st.integers(self.consumed[context], len(have)))
            self.bench.send(wire.CloseRun(context, run, kept))
            del self.tokens[context][start:]
            self._extend(context, have[:kept])

    @rule(context=contexts, on=st.booleans())
    def idle(self, context: int, on: bool) -> None:
        self.bench.send(wire.Idle(context, on))

    @rule(context=contexts, value=st.sampled_from([0.0, 0.5, 3.0]))
    def bid(self, context: int, value: float) -> None:
        self.bench.send(wire.Bid(context, value))

    @rule(context=contexts)
    def suspend(self, context: int) -> None:
        if context in self.tokens:
            self.bench.send(wire.Suspend(context, 0))

    @rule(context=consumes(contexts))
    def drop(self, context: int) -> None:
        if context in self.tokens:
            self.bench.send(wire.Drop(context))
            self.bench.settle(3000)
            del self.tokens[context]
            self.open.pop(context, None)

    @rule(steps=st.integers(1, 5))
    def step(self, steps: int) -> None:
        for _ in range(steps):
            self.bench.step()

    @invariant()
    def answers_are_those_of_a_dense_model(self) -> None:
        if not hasattr(self, "bench"):
            return
        assert {error.code for error in self.bench.runner.failed.values()} <= {"cancelled"}
        for number, slots in self.bench.runner.outputs.items():
            assert [slot.token for slot in slots] == self.passes[number]
        for context, (run, start) in self.open.items():
            said = self.bench.runner.tokens.get(run, [])
            known, marks = self.tokens[context][:start], self.marks[context][:start]
            assert said == continuation(known, marks, self.coming[context], len(said), context)

    def teardown(self) -> None:
        """Everything asked is answered; everything dropped is free."""
        if not hasattr(self, "bench"):
            return
        self.bench.settle(5000)
        assert set(self.passes) - set(self.bench.runner.failed) == set(self.bench.runner.outputs)
        assert self.bench.runner.acked == self.bench.runner.next_op - 1
        for context in list(self.tokens):
            self.bench.send(wire.Drop(context))
        self.bench.settle(5000)
        assert self.bench.owned() == 0
        super().teardown()

    def _extend(self, context: int, tokens: list[int]) -> None:
        self.tokens[context] = self.tokens[context] + tokens
        self.marks[context] += [self.coming[context]] * len(tokens)

    def _closed(self, context: int) -> bool:
        return context in self.tokens and context not in self.open

    def _visible(self, context: int) -> list[int]:
        if context not in self.open:
            return self.tokens[context]
        run, start = self.open[context]
        return self.tokens[context][:start] + self.bench.runner.tokens.get(run, [])


def _cut(marks: list[int], coming: int, length: int) -> tuple[list[int], int]:
    """Marks of the first tokens, and of those to come: the last one's, or the first one's when none is left."""
    return marks[:length], marks[max(length, 1) - 1] if marks else coming


def test_contexts_against_a_dense_model(benches):
    Contexts.make_bench = staticmethod(benches)
    run_state_machine_as_test(Contexts, settings=settings(max_examples=150, stateful_step_count=50))
