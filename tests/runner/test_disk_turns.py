"""Work with the disk: a tenant whose work hangs leaves threads to others, and who waits takes turns."""

from __future__ import annotations

from collections.abc import Callable

from pie_runner.outside.disk_turns import DiskTurns, Then


class Threads:
    """Work ends when the test says so."""

    def __init__(self, count: int) -> None:
        self.under_way: list[tuple[str, Then]] = []
        self.most = 0
        self.done: list[tuple[object, Exception | None]] = []
        self.turns = DiskTurns(self._run, count)

    def _run(self, work: Callable[[], object], then: Then) -> None:
        self.under_way.append((str(work()), then))
        self.most = max(self.most, len(self.under_way))

    def ask(self, tenant: str, *names: str) -> None:
        for name in names:
            self.turns.of(tenant)(lambda name=name: name, lambda result, error: self.done.append((result, error)))

    def finish(self, error: Exception | None = None) -> str:
        name, then = self.under_way.pop(0)
        then(name, error)
        return name


def test_hung_work_of_one_tenant_leaves_threads_to_others():
    threads = Threads(4)
    threads.ask("a", "a1", "a2", "a3", "a4")
    threads.ask("b", "b1")

    assert [name for name, _ in threads.under_way] == ["a1", "a2", "b1"]


def test_those_who_wait_take_turns_and_all_are_answered():
    threads = Threads(1)
    threads.ask("a", "a1", "a2", "a3")
    threads.ask("b", "b1", "b2")
    order = [threads.finish() for _ in range(5)]

    assert order == ["a1", "a2", "b1", "a3", "b2"]
    assert [result for result, _ in threads.done] == order
    assert threads.most == 1


def test_what_fails_gives_its_thread_back():
    threads = Threads(1)
    threads.ask("a", "a1", "a2")
    error = OSError("broken")
    threads.finish(error)
    threads.finish()

    assert threads.done == [("a1", error), ("a2", None)]
