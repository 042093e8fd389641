"""asyncio in a guest behaves as anywhere else."""

from __future__ import annotations

import textwrap

import pytest
from lab import Lab
from pie_runner.wasm.program import Program

PROGRAMS = {
    "gather keeps order": (
        """
        async def after(delay, value):
            await asyncio.sleep(delay)
            return value
        async def main():
            return await asyncio.gather(after(0.03, "a"), after(0.01, "b"), after(0.02, "c"))
        """,
        ["a", "b", "c"],
    ),
    "sleeps overlap": (
        """
        import time
        async def main():
            began = time.monotonic()
            await asyncio.gather(*[asyncio.sleep(0.05) for _ in range(20)])
            return time.monotonic() - began < 0.5
        """,
        True,
    ),
    "wait_for times out and cancels": (
        """
        async def main():
            cancelled = []
            async def slow():
                try:
                    await asyncio.sleep(30)
                except asyncio.CancelledError:
                    cancelled.append(True)
                    raise
            try:
                await asyncio.wait_for(slow(), 0.02)
            except TimeoutError:
                return cancelled
        """,
        [True],
    ),
    "task group cancels siblings": (
        """
        async def main():
            log = []
            async def wait():
                try:
                    await asyncio.sleep(30)
                finally:
                    log.append("cancelled")
            async def fail():
                await asyncio.sleep(0.01)
                raise ValueError("x")
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(wait())
                    group.create_task(fail())
            except* ValueError:
                log.append("raised")
            return log
        """,
        ["cancelled", "raised"],
    ),
    "queues, locks and events": (
        """
        async def main():
            queue, done, out = asyncio.Queue(1), asyncio.Event(), []
            async def produce():
                for i in range(5):
                    await queue.put(i)
                done.set()
            async def consume():
                while not (done.is_set() and queue.empty()):
                    out.append(await queue.get())
            await asyncio.gather(produce(), consume())
            return out
        """,
        [0, 1, 2, 3, 4],
    ),
    "timeout context": (
        """
        async def main():
            try:
                async with asyncio.timeout(0.01):
                    await asyncio.sleep(1)
            except TimeoutError:
                return "late"
        """,
        "late",
    ),
    "functions in threads run at once": (
        """
        async def main():
            return await asyncio.to_thread(sum, [1, 2, 3])
        """,
        6,
    ),
    "async generators are closed": (
        """
        log = []
        async def numbers():
            try:
                yield 1
                yield 2
            finally:
                log.append("closed")
        async def main():
            async for n in numbers():
                break
            import gc; gc.collect()
            await asyncio.sleep(0)
            return log
        """,
        ["closed"],
    ),
    "a busy task does not starve timers": (
        """
        async def main():
            woke = []
            async def timer():
                await asyncio.sleep(0.01)
                woke.append(True)
            task = asyncio.create_task(timer())
            turns = 0
            while not woke and turns < 1_000_000:
                turns += 1
                await asyncio.sleep(0)
            return bool(woke)
        """,
        True,
    ),
    "several tasks wait for the same, and one loses patience": (
        """
        from inferlet import loop
        from wit_world.imports import clocks
        async def main():
            timer = clocks.sleep(60_000_000)
            async def wait():
                await loop.result(timer)
                return "rung"
            async def impatient():
                try:
                    return await asyncio.wait_for(wait(), 0.02)
                except TimeoutError:
                    return "gone"
            return await asyncio.wait_for(asyncio.gather(wait(), wait(), impatient()), 2)
        """,
        ["rung", "rung", "gone"],
    ),
    "first of several hosts' futures": (
        """
        from inferlet import session
        async def main():
            message = asyncio.create_task(session.receive())
            done, waiting = await asyncio.wait([message], timeout=0.02)
            message.cancel()
            return len(done), len(waiting)
        """,
        [0, 1],
    ),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_semantics(lab: Lab, python: Program, name: str):
    source, wanted = PROGRAMS[name]

    assert lab.run(python, "import asyncio\n" + textwrap.dedent(source)).value == wanted


def test_waiting_for_nothing_is_an_error(lab: Lab, python: Program):
    source = "import asyncio\nasync def main(): await asyncio.get_running_loop().create_future()"

    assert "deadlock" in str(lab.run(python, source).error)


def test_a_cancelled_receive_leaves_nothing_open(lab: Lab, python: Program):
    source = textwrap.dedent("""\
        import asyncio
        from inferlet import session
        async def main():
            try:
                await asyncio.wait_for(session.receive(), 0.01)
            except TimeoutError:
                return "nobody"
        """)

    assert lab.run(python, source).value == "nobody"
    assert lab.fake.open_resources == 0
