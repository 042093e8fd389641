"""Messages between programs: who waits for one, who listens, and what becomes of messages when their holders die."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import structlog
from pie_wire.errors import BadField, Overloaded, StoreUnavailable, TooLarge, Unavailable
from pie_wire.hub import Hub, Incoming, Peer
from pie_wire.messages import kvstore as kv
from pie_wire.messages.base import Done
from pie_wire.messages.common import MAX_QUEUED_BYTES, MemberInfo
from pie_wire.messages.runner import Broadcasted, QueuedMessage
from pie_wire.shares import Shares

from pie_kvstore import names
from pie_kvstore.queues import Queues, Topic

MAX_WAITERS = 262_144
"""Pulls of all programs that wait for a message, shared among tenants."""
MAX_SUBSCRIBED = 262_144
"""Topics that runners want the broadcasts of, each once for each runner, shared among tenants."""
SLOW_BYTES = 4 << 20
"""Owed to a runner beyond which broadcasts for it are dropped, and messages wait: they must not cost it its link."""

log = structlog.get_logger("pie.kvstore")


@dataclass(frozen=True)
class _Waiter:
    """A pull without a message."""

    peer: Peer
    epoch: int
    pid: str
    number: int


class Topics:
    """`member` finds the member at the other end of a link, if it holds a lease."""

    def __init__(
        self, hub: Hub, queues: Queues, member: Callable[[Peer], MemberInfo | None], now: Callable[[], float]
    ) -> None:
        """`now` gives Unix seconds."""
        self.queues = queues
        self._hub = hub
        self._member = member
        self._now = now
        self._waiting: dict[Topic, OrderedDict[_Waiter, None]] = {}
        """First come, first served."""
        self._wishes: dict[str, dict[_Waiter, Topic]] = {}
        """The same by process."""
        self.shares = Shares(MAX_WAITERS)
        """Of those who wait, by tenant."""
        self._subscribed: dict[Topic, dict[Peer, int]] = {}
        """Runners that want the broadcasts of a topic, and how many of them each has missed since the last one."""
        self.subscribed = Shares(MAX_SUBSCRIBED)
        """Of these, by tenant."""
        self._pending: dict[Topic, None] = {}
        """Topics in which a message and a waiter may not have met yet."""
        self._outages = queues.outages
        hub.on(kv.PushMessage, self._push)
        hub.on(kv.PullMessage, self._pull)
        hub.on(kv.SettleMessages, self._settle)
        hub.on(kv.Broadcast, self._broadcast)
        hub.on(kv.Subscribe, self._subscribe)
        hub.on(kv.Unsubscribe, self._unsubscribe)
        hub.on(kv.ListTopics, lambda m: kv.TopicList(self.queues.list(m.header.tenant, m.header.user)))
        hub.on(kv.ListDead, lambda m: kv.DeadList(self.queues.dead(_topic(m))))
        hub.on(kv.PurgeTopic, lambda m: kv.Purged(self.queues.purge(_topic(m), waiting=m.message.waiting)))

    # -- queues

    def _push(self, incoming: Incoming[kv.PushMessage]) -> Done:
        topic, message = _topic(incoming), incoming.message
        _check_size(message.text)
        if not 1 <= len(message.key) <= names.MAX_TOPIC_NAME or not message.key.isascii():
            raise BadField(f"the key of a push has 1 to {names.MAX_TOPIC_NAME} ASCII characters")
        if self.queues.push(topic, message.text, message.key, self._now()):
            incoming.reply(Done())
            self._meet(topic)
        return Done()

    def _pull(self, incoming: Incoming[kv.PullMessage]) -> Done:
        topic, message = _topic(incoming), incoming.message
        member = self._member(incoming.peer)
        if member is None or member.kind != "runner":
            raise Unavailable(f"{incoming.peer} holds no lease: join, then pull")
        held = self.queues.held_by(names.pid(message.pid))
        self.queues.acknowledge([number for number in message.acknowledged if number in held])
        waiter = _Waiter(incoming.peer, member.epoch, message.pid, message.number)
        if waiter not in self._wishes.get(waiter.pid, {}):
            if not self.shares.take(topic.tenant):
                waiting = self.shares.of(topic.tenant)
                raise Overloaded(
                    f"{waiting} pulls of tenant {topic.tenant} wait for messages already, its share of {MAX_WAITERS}: "
                    "try again when some have got theirs"
                )
            self._waiting.setdefault(topic, OrderedDict())[waiter] = None
            self._wishes.setdefault(waiter.pid, {})[waiter] = topic
        incoming.reply(Done())
        self._meet(topic)
        return Done()

    def _settle(self, incoming: Incoming[kv.SettleMessages]) -> Done:
        message = incoming.message
        held = self.queues.held_by(names.pid(message.pid))
        self.queues.acknowledge([number for number in message.acknowledged if number in held])
        again = self.queues.give_back([number for number in message.failed if number in held], seen=True)
        told = {*message.acknowledged, *message.failed}
        unseen = [n for n, row in held.items() if n not in told and (message.all or row.number == message.number)]
        again += self.queues.give_back(unseen, seen=False)
        if message.all or message.number:
            for waiter in list(self._wishes.get(message.pid, ())):
                if message.all or waiter.number == message.number:
                    self._forget(waiter)
        incoming.reply(Done())
        for topic in again:
            self._meet(topic)
        return Done()

    def _meet(self, topic: Topic) -> None:
        """Hand out messages as long as there are some, and programs that wait for them."""
        try:
            while line := self._waiting.get(topic):
                waiter = next(iter(line))
                if self._hub.owed(waiter.peer) > SLOW_BYTES:
                    self._pending[topic] = None
                    break
                given = self.queues.take(topic, waiter.peer.name, waiter.epoch, waiter.pid, waiter.number)
                if given is None:
                    break
                self._forget(waiter)
                text, redeliveries = given.text, given.redeliveries
                self._hub.send(waiter.peer, QueuedMessage(waiter.pid, waiter.number, given.message, text, redeliveries))
        except StoreUnavailable:
            self._pending[topic] = None

    def tick(self, living: Iterable[MemberInfo] | None) -> None:
        """Do what an outage delayed; with `living` members, free what all other incarnations of runners have.

        Raises:
            StoreUnavailable: not yet; call again with the same.
        """
        if living is not None:
            dead = self.queues.held_by_others_than((m.name, m.epoch) for m in living if m.kind == "runner")
            if dead:
                log.info("messages of dead runners are for others", messages=len(dead))
                self._pending.update(dict.fromkeys(self.queues.give_back(list(dead), seen=True)))
        if self._outages != self.queues.outages:
            # What a change that failed half-way has put into a queue, nobody was told of.
            self._outages = self.queues.outages
            self._pending.update(dict.fromkeys(self._waiting))
        pending, self._pending = self._pending, {}
        for topic in pending:
            self._meet(topic)

    # -- broadcasts

    def _broadcast(self, incoming: Incoming[kv.Broadcast]) -> Done:
        topic, text = _topic(incoming), incoming.message.text
        _check_size(text)
        runners = self._subscribed.get(topic, {})
        for peer, lost in runners.items():
            if self._hub.owed(peer) > SLOW_BYTES:
                runners[peer] = lost + 1
            else:
                runners[peer] = 0
                self._hub.send(peer, Broadcasted(topic.tenant, topic.user, topic.name, text, lost))
        return Done()

    def _subscribe(self, incoming: Incoming[kv.Subscribe]) -> Done:
        topic = _topic(incoming)
        if incoming.peer in self._subscribed.get(topic, ()):
            return Done()
        if not self.subscribed.take(topic.tenant):
            raise Overloaded(
                f"runners have {self.subscribed.of(topic.tenant)} subscriptions of tenant {topic.tenant}, its share of "
                f"{MAX_SUBSCRIBED}: try again when some have been dropped"
            )
        self._subscribed.setdefault(topic, {})[incoming.peer] = 0
        return Done()

    def _unsubscribe(self, incoming: Incoming[kv.Unsubscribe]) -> None:
        self._leave(_topic(incoming), incoming.peer)

    def _leave(self, topic: Topic, peer: Peer) -> None:
        runners = self._subscribed.get(topic, {})
        if runners.pop(peer, None) is not None:
            self.subscribed.give_back(topic.tenant)
        if not runners:
            self._subscribed.pop(topic, None)

    # -- ends

    def link_down(self, peer: Peer) -> None:
        """What this runner wanted it will want again on its next link. What it has is its own while its lease lasts."""
        for waiter in [w for wishes in self._wishes.values() for w in wishes if w.peer is peer]:
            self._forget(waiter)
        for topic in list(self._subscribed):
            self._leave(topic, peer)

    def _forget(self, waiter: _Waiter) -> None:
        wishes = self._wishes[waiter.pid]
        topic = wishes.pop(waiter)
        if not wishes:
            del self._wishes[waiter.pid]
        line = self._waiting[topic]
        del line[waiter]
        if not line:
            del self._waiting[topic]
        self.shares.give_back(topic.tenant)


def _topic(
    incoming: Incoming[kv.PushMessage]
    | Incoming[kv.PullMessage]
    | Incoming[kv.Broadcast]
    | Incoming[kv.Subscribe]
    | Incoming[kv.Unsubscribe]
    | Incoming[kv.ListDead]
    | Incoming[kv.PurgeTopic],
) -> Topic:
    """The topic that a message names, of the user in its header. Raises BadField."""
    return Topic(*names.owner(incoming.header.tenant, incoming.header.user), names.topic(incoming.message.topic))


def _check_size(text: str) -> None:
    if len(text) > MAX_QUEUED_BYTES or len(text.encode()) > MAX_QUEUED_BYTES:
        raise TooLarge(f"a message of a topic has at most {MAX_QUEUED_BYTES} bytes: send a reference to larger data")
