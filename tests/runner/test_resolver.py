"""Names of hosts: look-ups that hang keep threads of one tenant's share, and others' names are found."""

from __future__ import annotations

import asyncio
import threading

import pytest
from pie_runner.outside.resolver import Resolver, look_up
from pie_wire.hosts import Address, as_address

HERE = as_address("127.0.0.1")


class Names:
    """Names of `slow` hosts are found when the test says so."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.asked: list[str] = []

    def look_up(self, host: str, port: int) -> list[Address]:
        self.asked.append(host)
        if host.startswith("slow"):
            self.go.wait(10)
        assert HERE is not None
        return [HERE]


def test_look_ups_that_hang_leave_threads_to_others_even_when_they_are_given_up():
    names = Names()
    resolver = Resolver(names.look_up, threads=4)

    async def main() -> None:
        slow = [asyncio.create_task(resolver.resolve("hog", f"slow{n}", 80)) for n in range(6)]
        await asyncio.sleep(0.05)
        for task in slow:
            task.cancel()
        more = [asyncio.create_task(resolver.resolve("hog", f"slow-again{n}", 80)) for n in range(6)]
        await asyncio.sleep(0.05)
        assert sorted(names.asked) == ["slow0", "slow1"]
        for number in range(3):
            assert await asyncio.wait_for(resolver.of("other")(f"fast{number}", 80), 5) == [HERE]
        names.go.set()
        assert await asyncio.wait_for(asyncio.gather(*more), 5) == [[HERE]] * 6

    asyncio.run(main())


def test_names_are_found_as_the_system_does_and_errors_are_told():
    assert HERE in look_up("localhost", 80)

    def fails(host: str, port: int) -> list[Address]:
        raise OSError("no such name")

    async def main() -> None:
        resolver = Resolver(fails, threads=2)
        for _ in range(3):
            with pytest.raises(OSError, match="no such name"):
                await resolver.resolve("a", "nowhere", 80)

    asyncio.run(main())


def test_a_look_up_without_a_thread_gives_its_place_back(monkeypatch: pytest.MonkeyPatch):
    resolver = Resolver(Names().look_up, threads=2)

    def full(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    async def main() -> None:
        with monkeypatch.context() as patched:
            patched.setattr(resolver._pool, "submit", full)
            for _ in range(3):
                with pytest.raises(OSError, match="no thread"):
                    await asyncio.wait_for(resolver.resolve("a", "fast", 80), 5)
        assert await asyncio.wait_for(resolver.resolve("a", "fast", 80), 5) == [HERE]

    asyncio.run(main())
