"""Places that tenants share: none takes all, all who may are let in, and none is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from hypothesis import given, settings
from hypothesis import strategies as st
from pie_runner.outside.turnstile import Turnstile


class Crowd:
    """Tasks that have a place until they are told to go."""

    def __init__(self, places: int) -> None:
        self.turnstile = Turnstile(places)
        self.entered: list[str] = []
        self.inside: list[tuple[str, asyncio.Event, asyncio.Task[None]]] = []
        self.waiting: list[tuple[str, asyncio.Task[None]]] = []

    async def come(self, tenant: str) -> None:
        event = asyncio.Event()

        async def visit() -> None:
            async with self.turnstile.place(tenant):
                task = next(task for name, task in self.waiting if task is asyncio.current_task())
                self.waiting.remove((tenant, task))
                self.entered.append(tenant)
                self.inside.append((tenant, event, task))
                await event.wait()

        self.waiting.append((tenant, asyncio.create_task(visit())))
        await self.settle()

    async def go(self, number: int, *, cancelled: bool = False) -> None:
        _, event, task = self.inside.pop(number % len(self.inside))
        if cancelled:
            task.cancel()
        event.set()
        await self.settle()

    async def give_up(self, number: int) -> None:
        _, task = self.waiting.pop(number % len(self.waiting))
        task.cancel()
        await self.settle()

    async def settle(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)

    def count(self, tenant: str) -> int:
        return sum(1 for name, _, _ in self.inside if name == tenant)


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await test()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    asyncio.run(main())


def test_one_tenant_gets_half_and_the_next_comes_in_at_once():
    async def test() -> None:
        crowd = Crowd(8)
        for _ in range(10):
            await crowd.come("a")
        await crowd.come("b")

        assert (crowd.count("a"), crowd.count("b")) == (4, 1)
        assert crowd.turnstile.held("a") == 4

    run(test)


def test_those_who_wait_take_turns():
    async def test() -> None:
        crowd = Crowd(2)
        for tenant in "abaabb":
            await crowd.come(tenant)
        while crowd.inside:
            await crowd.go(0)

        assert crowd.entered == list("ababab")

    run(test)


def test_one_who_leaves_as_it_is_let_in_passes_the_place_on():
    async def test() -> None:
        crowd = Crowd(1)
        for tenant in "abc":
            await crowd.come(tenant)
        crowd.inside[0][1].set()
        crowd.inside.clear()
        await asyncio.sleep(0)  # `b` has been given the place and has not run since
        _, task = crowd.waiting.pop(0)
        task.cancel()
        await crowd.settle()

        assert crowd.entered == ["a", "c"]

    run(test)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 6),
    st.lists(st.tuples(st.sampled_from(["come", "go", "fall", "give up"]), st.integers(0, 20)), max_size=40),
)
def test_whatever_happens_places_are_neither_lost_nor_given_twice(places: int, steps: list[tuple[str, int]]):
    async def test() -> None:
        crowd = Crowd(places)
        for what, number in steps:
            if what == "come":
                await crowd.come("abc"[number % 3])
            elif what == "give up" and crowd.waiting:
                await crowd.give_up(number)
            elif what in ("go", "fall") and crowd.inside:
                await crowd.go(number, cancelled=what == "fall")
            assert len(crowd.inside) <= places
            free = places - len(crowd.inside)
            for tenant in "abc":
                assert crowd.turnstile.held(tenant) == crowd.count(tenant)
                if any(name == tenant for name, _ in crowd.waiting):
                    assert crowd.count(tenant) >= free, "it waits though it may come in"
        while crowd.inside:
            await crowd.go(0)
        assert not crowd.waiting

    run(test)
