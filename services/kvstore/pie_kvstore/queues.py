"""Queues of messages between programs, durable in Redis.

    waiting --take--> taken --acknowledge--> gone
       ^                |
       +-- put back ----+-- given up, five times at most --> dead

This kvstore is the only writer, so that what it has read stays true until it writes; every change is one transaction,
so that its own death leaves whole ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec
from pie_wire.errors import InternalError, QuotaExceeded
from pie_wire.messages.kvstore import DeadMessage, TopicInfo

from pie_kvstore.schema import PUSH_KEY_SECONDS, QueuedRow, TakenRow
from pie_kvstore.store import Pipeline, Store

MAX_DELIVERIES = 5
LIST_BYTES = 1 << 20
"""Text of dead messages in one list."""


class Topic(NamedTuple):
    """Whose, and which."""

    tenant: str
    user: str
    name: str


class Given(NamedTuple):
    """A message that was taken."""

    message: int
    text: str
    redeliveries: int


class Queues:
    """See the module's text. `messages` and `size` bound one topic, `topics` those of one user that hold messages."""

    def __init__(self, store: Store, *, messages: int, size: int, topics: int) -> None:
        self._store = store
        self._messages = messages
        self._size = size
        self._topics = topics
        self._taken: dict[int, TakenRow] = {}
        self._held: dict[str, dict[int, None]] = {}
        """Their numbers by process."""
        self._last = 0
        """The number of the last message."""
        self._outages = -1
        """Of the store, when these were read: after one they are read again."""

    @property
    def outages(self) -> int:
        """Failures of the store so far."""
        return self._store.outages

    # -- in

    def push(self, topic: Topic, text: str, key: str, now: float) -> bool:
        """Store a message, unless that was done under this key. False if it was. Raises QuotaExceeded."""
        self._read_back()
        keys, size = self._store.keys, len(text.encode())
        with self._store.use() as redis:
            mark = keys.push_key(key)
            if redis.get(mark) is not None:
                return False
            held, count = int(redis.hget(keys.topics(topic), topic.name) or 0), redis.hlen(keys.queue(topic))
            if count >= self._messages or held + size > self._size:
                raise QuotaExceeded(
                    f"topic {topic.name!r} holds {count} messages of {held} bytes, and at most {self._messages} of "
                    f"{self._size} (`topic_messages`, `topic_bytes` of kvstore): pull some, or see `pie topics`"
                )
            if not count and redis.hlen(keys.topics(topic)) >= self._topics:
                raise QuotaExceeded(
                    f"{self._topics} topics of this user hold messages, as many as may (`user_topics` of kvstore): "
                    "pull or purge some, see `pie topics`"
                )
            number = self._last + 1
            pipe = redis.pipeline(transaction=True)
            pipe.hset(keys.queue(topic), str(number), msgspec.json.encode(QueuedRow(text, now)))
            pipe.zadd(keys.waiting(topic), {str(number): number})
            pipe.hincrby(keys.topics(topic), topic.name, size)
            pipe.incr(keys.messages)
            pipe.set(mark, number, ex=PUSH_KEY_SECONDS)
            pipe.execute()
            self._last = number
        return True

    # -- out

    def take(self, topic: Topic, runner: str, epoch: int, pid: str, number: int) -> Given | None:
        """The oldest message that nobody has, or the one that this pull was given already."""
        self._read_back()
        keys = self._store.keys
        for message in self._held.get(pid, ()):
            if (self._taken[message].number, self._taken[message].topic) == (number, topic.name):
                queued = self._queued(topic, message)
                return Given(message, queued.text, queued.deliveries - 1) if queued else None
        with self._store.use() as redis:
            first = redis.zrange(keys.waiting(topic), 0, 0)
        if not first:
            return None
        message = int(first[0])
        queued = self._queued(topic, message)
        if queued is None:
            raise InternalError(f"message {message} of topic {topic.name!r} is listed and not stored")
        row = TakenRow(*topic, runner, epoch, pid, number)
        with self._store.use() as redis:
            pipe = redis.pipeline(transaction=True)
            pipe.zrem(keys.waiting(topic), str(message))
            pipe.hset(keys.taken, str(message), msgspec.json.encode(row))
            pipe.hset(
                keys.queue(topic),
                str(message),
                msgspec.json.encode(msgspec.structs.replace(queued, deliveries=queued.deliveries + 1)),
            )
            pipe.execute()
        self._note(message, row)
        return Given(message, queued.text, queued.deliveries)

    def held_by(self, pid: str) -> dict[int, TakenRow]:
        """What a process has taken, by message."""
        self._read_back()
        return {message: self._taken[message] for message in self._held.get(pid, ())}

    def held_by_others_than(self, living: Iterable[tuple[str, int]]) -> dict[int, TakenRow]:
        """What runners have that are not among these (name, epoch)."""
        self._read_back()
        alive = set(living)
        return {message: row for message, row in self._taken.items() if (row.runner, row.epoch) not in alive}

    def acknowledge(self, held: Sequence[int]) -> None:
        """These are done with."""
        self._read_back()
        rows = {message: self._taken[message] for message in held if message in self._taken}
        for message, row in rows.items():
            topic = _topic(row)
            queued = self._queued(topic, message)
            with self._store.use() as redis:
                pipe = redis.pipeline(transaction=True)
                pipe.hdel(self._store.keys.taken, str(message))
                self._delete(pipe, topic, {message: queued} if queued else {})
                pipe.execute()
            self._drop(message)
            self._forget_if_empty(topic)

    def give_back(self, held: Sequence[int], *, seen: bool) -> list[Topic]:
        """These are for others; dead if that was the fifth time. Not `seen` by a program, a delivery does not count.
        Returns the topics that have something to take again."""
        self._read_back()
        again: dict[Topic, None] = {}
        for message in held:
            row = self._taken.get(message)
            if row is None:
                continue
            topic = _topic(row)
            queued = self._queued(topic, message)
            dies = queued is not None and seen and queued.deliveries >= MAX_DELIVERIES
            with self._store.use() as redis:
                pipe = redis.pipeline(transaction=True)
                pipe.hdel(self._store.keys.taken, str(message))
                if queued is not None:
                    keys = self._store.keys
                    pipe.zadd(keys.dead(topic) if dies else keys.waiting(topic), {str(message): message})
                    if not seen:
                        fewer = msgspec.structs.replace(queued, deliveries=queued.deliveries - 1)
                        pipe.hset(keys.queue(topic), str(message), msgspec.json.encode(fewer))
                pipe.execute()
            self._drop(message)
            if not dies:
                again[topic] = None
        return list(again)

    # -- for people

    def list(self, tenant: str, user: str) -> list[TopicInfo]:
        """The topics of a user that hold messages, by name."""
        keys = self._store.keys
        found: list[TopicInfo] = []
        with self._store.use() as redis:
            sizes = redis.hgetall(keys.topics(Topic(tenant, user, "")))
            for name, size in sorted(sizes.items()):
                topic = Topic(tenant, user, name.decode())
                total = redis.hlen(keys.queue(topic))
                if not total:
                    continue
                waiting, dead = redis.zcard(keys.waiting(topic)), redis.zcard(keys.dead(topic))
                found.append(TopicInfo(topic.name, waiting, total - waiting - dead, dead, int(size)))
        return found

    def dead(self, topic: Topic) -> list[DeadMessage]:
        """Dead messages, oldest first, as many as fit a reply."""
        found: list[DeadMessage] = []
        room = LIST_BYTES
        with self._store.use() as redis:
            numbers = redis.zrange(self._store.keys.dead(topic), 0, 999)
        for number in map(int, numbers):
            queued = self._queued(topic, number)
            if queued is not None:
                room -= len(queued.text)
                if room < 0:
                    break
                found.append(DeadMessage(number, queued.text, queued.pushed_at))
        return found

    def purge(self, topic: Topic, *, waiting: bool) -> int:
        """Delete the dead messages, and those that wait if asked. Returns how many."""
        keys = self._store.keys
        count = 0
        for key in [keys.dead(topic)] + ([keys.waiting(topic)] if waiting else []):
            while True:
                with self._store.use() as redis:
                    numbers = [int(number) for number in redis.zrange(key, 0, 255)]
                if not numbers:
                    break
                rows = {number: queued for number in numbers if (queued := self._queued(topic, number))}
                with self._store.use() as redis:
                    pipe = redis.pipeline(transaction=True)
                    pipe.zrem(key, *map(str, numbers))
                    self._delete(pipe, topic, rows)
                    pipe.execute()
                count += len(numbers)
        self._forget_if_empty(topic)
        return count

    # -- inside

    def _delete(self, pipe: Pipeline, topic: Topic, rows: dict[int, QueuedRow]) -> None:
        if rows:
            pipe.hdel(self._store.keys.queue(topic), *map(str, rows))
            size = sum(len(row.text.encode()) for row in rows.values())
            pipe.hincrby(self._store.keys.topics(topic), topic.name, -size)

    def _forget_if_empty(self, topic: Topic) -> None:
        with self._store.use() as redis:
            if not redis.hlen(self._store.keys.queue(topic)):
                redis.hdel(self._store.keys.topics(topic), topic.name)

    def _queued(self, topic: Topic, message: int) -> QueuedRow | None:
        with self._store.use() as redis:
            row = redis.hget(self._store.keys.queue(topic), str(message))
        return msgspec.json.decode(row, type=QueuedRow) if row else None

    def _read_back(self) -> None:
        """What Redis knows; after an outage it is unknown whether the last change was made."""
        if self._outages == self._store.outages:
            return
        outages = self._store.outages
        with self._store.use() as redis:
            rows = redis.hgetall(self._store.keys.taken)
            self._last = int(redis.get(self._store.keys.messages) or 0)
        self._taken.clear()
        self._held.clear()
        for number, row in rows.items():
            self._note(int(number), msgspec.json.decode(row, type=TakenRow))
        self._outages = outages

    def _note(self, message: int, row: TakenRow) -> None:
        self._taken[message] = row
        self._held.setdefault(row.pid, {})[message] = None

    def _drop(self, message: int) -> None:
        row = self._taken.pop(message)
        of_process = self._held[row.pid]
        del of_process[message]
        if not of_process:
            del self._held[row.pid]


def _topic(row: TakenRow) -> Topic:
    return Topic(row.tenant, row.user, row.topic)
