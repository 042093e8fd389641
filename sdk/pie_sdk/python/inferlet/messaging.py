"""Messages between programs of one user, wherever they run. A topic exists as soon as it is named.

await messaging.push("jobs", "resize 7.png")

async for job in messaging.pulls("jobs"):      # each is acknowledged when the next is asked for
    work(job.text)

with messaging.subscribe("news") as news:      # broadcasts: lost on those who do not keep up
    async for text in news: ...
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from wit_world.imports import messaging as raw

from inferlet import loop
from inferlet.errors import host_errors, unwrap


@dataclass(frozen=True)
class Message:
    """One from a queue. Unless it is acknowledged, another program gets it; five times at most."""

    id: int
    text: str
    redeliveries: int
    """How many had it before."""

    def acknowledge(self) -> None:
        """Done with it. The next `pull` of its topic, and returning from `main`, do this too."""
        with host_errors():
            raw.acknowledge(self.id)


async def push(topic: str, message: str) -> None:
    """Add to the topic's queue; returns when it is stored. Raises PieError `quota_exceeded` when the queue is full."""
    with host_errors():
        done = raw.push(topic, message)
    with done:
        unwrap(await loop.result(done))


async def pull(topic: str) -> Message:
    """The oldest message that nobody has; waits until there is one. Acknowledges those pulled from the topic before."""
    with host_errors():
        pending = raw.pull(topic)
    with pending:
        given = unwrap(await loop.result(pending))
    return Message(given.message, given.text, given.redeliveries)


async def pulls(topic: str) -> AsyncIterator[Message]:
    """One message after the other, without end."""
    while True:
        yield await pull(topic)


async def broadcast(topic: str, message: str) -> None:
    """To all who are subscribed now; those that do not keep up lose it."""
    with host_errors():
        done = raw.broadcast(topic, message)
    with done:
        unwrap(await loop.result(done))


def subscribe(topic: str) -> Subscription:
    """The topic's broadcasts from now on."""
    with host_errors():
        return Subscription(raw.subscribe(topic))


class Subscription:
    """An asynchronous iterator of texts. Ends with `close`, or its `with` block."""

    def __init__(self, handle: raw.Subscription) -> None:
        self._handle = handle
        self._id = handle.id()
        self._closed = False

    @property
    def lost(self) -> int:
        """Messages lost so far because they were not read in time."""
        return self._handle.lost()

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> str:
        while not self._closed:
            if (got := self._handle.next()) is not None:
                return unwrap(got)
            await loop.ready(self._id)
        raise StopAsyncIteration

    def close(self) -> None:
        """Listen no more: who waits for a message is told that there are no more."""
        self._closed = True
        self._handle.__exit__(None, None, None)

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
