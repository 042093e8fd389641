"""The runner's end of all messaging: queues with acknowledgement, and broadcasts.

What kvstore holds for a process here, the process's `Mail` mirrors: pulls that wait, and messages it has. Every request
can be repeated without harm, and is, so that nothing depends on one link. A link that is lost takes the pulls and the
subscriptions with it; they are registered again on the next.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import structlog
from pie_wire.errors import Closed, NotFound, Overloaded, PieError, StoreUnavailable, TooLarge, Unavailable
from pie_wire.hub import Answer, Hub, Incoming, Scope
from pie_wire.membership import KVSTORE
from pie_wire.messages.base import Done
from pie_wire.messages.common import MAX_QUEUED_BYTES
from pie_wire.messages.kvstore import Broadcast, PullMessage, PushMessage, SettleMessages, Subscribe, Unsubscribe
from pie_wire.messages.runner import Broadcasted, QueuedMessage
from pie_wire.shares import Shares
from pie_wire.texts import byte_size

from pie_runner.messaging.mail import Delivery, Mail, PendingPull
from pie_runner.messaging.repeated import Repeated
from pie_runner.messaging.subscription import Subscription
from pie_runner.process import Process
from pie_runner.timers import Timers
from pie_runner.waitables import Completion

WITHIN = 30.0
"""Seconds until a push, an acknowledgement or a subscription is given up."""
MAX_SENDING = 256
"""Messages of one process that are not stored, or not sent on, yet."""
SENDING_BYTES = 64 << 20
"""Of all processes, shared among tenants: a link that owes much more is given up."""
MESSAGE_COST = 1024
"""Of a message beside its text."""
MAX_PULLS = 64
"""Of one process, waiting or not got yet: each may bring a message of the largest size."""
MAX_SUBSCRIPTIONS = 64
"""Of one process: each has a buffer."""
MAX_ALL_SUBSCRIPTIONS = 16_384
"""Of all processes, shared among tenants."""
HEARD_BYTES = 256 << 20
"""Broadcasts in all buffers, shared among tenants; what finds no room is lost to its subscriber, and counted."""
MAX_SETTLING = 65_536
"""Of all processes, while kvstore is away, shared among tenants. What is left out is settled when this runner ends."""

log = structlog.get_logger("pie.messaging")

Channel = tuple[str, str, str]
"""Tenant, user, topic."""


class Post:
    """See the module's text."""

    def __init__(self, hub: Hub, timers: Timers) -> None:
        self._hub = hub
        self._timers = timers
        self._mail: dict[str, Mail] = {}
        self._settling = Shares(MAX_SETTLING)
        """Of what is being settled, by tenant."""
        self._sending = Shares(SENDING_BYTES)
        self._subscriptions = Shares(MAX_ALL_SUBSCRIPTIONS)
        self._heard_bytes = Shares(HEARD_BYTES)
        self._listening: dict[Channel, dict[Subscription, None]] = {}
        self._entering: Counter[Channel] = Counter()
        """Subscriptions that are not in force yet."""
        self._joining: dict[Channel, Repeated] = {}
        """Registrations after the loss of a link."""
        hub.on(QueuedMessage, self._arrived)
        hub.on(Broadcasted, self._heard)

    # -- queues

    def push(self, process: Process, topic: str, text: str) -> Completion:
        """Complete when it is stored.

        Raises:
            TooLarge: the message. Overloaded: too many are not stored yet.
        """
        done, ended = self._begin_to_send(process, text)
        request = PushMessage(topic, text, f"{process.pid}/{self._of(process).next_number()}")
        self._repeat(request, process.scope, ended, within=WITHIN)
        return done

    def _begin_to_send(self, process: Process, text: str) -> tuple[Completion, Callable[[PieError | None], None]]:
        """What the program gets, and what is to be called when its message is out. Raises TooLarge, Overloaded."""
        cost = MESSAGE_COST + _checked_size(text)
        mail, tenant = self._of(process), process.scope.tenant
        if mail.sending >= MAX_SENDING:
            raise Overloaded(f"{MAX_SENDING} `sends` are not stored yet: wait for some to complete")
        done = Completion(process.waitables)
        if not self._sending.take(tenant, cost):
            done.close()
            raise Overloaded(
                f"messages of tenant {tenant} that are not stored yet take {self._sending.of(tenant)} bytes, its share "
                f"of {SENDING_BYTES}: wait for some to complete"
            )
        mail.sending += 1

        def ended(error: PieError | None) -> None:
            mail.sending -= 1
            self._sending.give_back(tenant, cost)
            done.complete(error)

        return done, ended

    def pull(self, process: Process, topic: str) -> PendingPull:
        """The next message; acknowledges those of the topic that the program has. Raises Overloaded."""
        mail = self._of(process)
        if len(mail.pulls) >= MAX_PULLS:
            raise Overloaded(f"{MAX_PULLS} `pulls` wait for their messages or to be got: get or drop some")
        pull = PendingPull(process.waitables, self, mail, topic)
        mail.pulls[pull.number] = pull
        self._register(pull)
        return pull

    def acknowledge(self, process: Process, message: int, then: Callable[[PieError | None], None]) -> None:
        """`then` is called when it is done with, or cannot be.

        Raises:
            NotFound: the program does not have that message.
        """
        mail = self._of(process)
        topic = mail.got.pop(message, None)
        if topic is None:
            raise NotFound(f"this program has no unacknowledged message {message}")

        def settled(error: PieError | None) -> None:
            if error is not None:
                mail.got[message] = topic
            then(error)

        self._repeat(SettleMessages(process.pid, [message]), process.scope, settled, within=WITHIN)

    def taken(self, pull: PendingPull) -> None:
        """The program has its message."""
        pull.mail.pulls.pop(pull.number, None)

    def dropped(self, pull: PendingPull) -> None:
        """The program does not want it any more: a message that has come, or comes now, is put back."""
        if pull.mail.pulls.pop(pull.number, None) is None:
            return  # the process has ended, and all its mail is settled
        if pull.asking is not None:
            pull.asking.cancel()
        unsure = pull.acknowledged if pull.asking is not None else []
        process = pull.mail.process
        self._settle(SettleMessages(process.pid, unsure, number=pull.number), process.scope)

    def ended(self, process: Process, *, returned: bool) -> None:
        """Messages that it has are acknowledged if it returned; otherwise others get them."""
        mail = self._mail.pop(process.pid, None)
        if mail is None or mail.is_empty:
            return
        acknowledged = list(mail.got) if returned else []
        for pull in mail.pulls.values():
            if pull.asking is not None:
                pull.asking.cancel()
                acknowledged += pull.acknowledged
        failed = [] if returned else list(mail.got)
        mail.pulls.clear()
        mail.got.clear()
        self._settle(SettleMessages(process.pid, acknowledged, failed, all=True), process.scope)

    def _of(self, process: Process) -> Mail:
        mail = self._mail.get(process.pid)
        if mail is None:
            if process.state == "ended":
                raise Closed("the process has ended")  # it may still be unwinding, and nothing would free what it got
            mail = self._mail[process.pid] = Mail(process)
        return mail

    def _register(self, pull: PendingPull) -> None:
        process = pull.mail.process

        def registered(error: PieError | None) -> None:
            pull.asking = None
            if error is None:
                pull.acknowledged = []
            elif pull.delivery is None:
                pull.mail.pulls.pop(pull.number, None)
                pull.fail(error)

        request = PullMessage(pull.topic, process.pid, pull.number, pull.acknowledged)
        pull.asking = self._repeat(request, process.scope, registered, within=None)

    def _settle(self, request: SettleMessages, scope: Scope) -> None:
        tenant = scope.tenant
        if not self._settling.take(tenant):
            log.warning("too many messages to settle: they stay with this runner", pid=request.pid, tenant=tenant)
            return

        def settled(error: PieError | None) -> None:
            self._settling.give_back(tenant)
            if error is not None:
                log.error("messages cannot be settled", pid=request.pid, code=error.code, reason=error.message)

        self._repeat(request, scope, settled, within=None)

    def _arrived(self, incoming: Incoming[QueuedMessage]) -> None:
        message = incoming.message
        mail = self._mail.get(message.pid)
        pull = mail.pulls.get(message.number) if mail is not None else None
        if pull is not None:
            pull.give(Delivery(message.message, message.text, message.redeliveries))
        elif mail is None or not mail.has(message.message):
            # A registration that was repeated has been answered twice, or its pull was dropped: nobody waits for this.
            self._settle(SettleMessages(message.pid, number=message.number), incoming.scope)

    # -- broadcasts

    def broadcast(self, process: Process, topic: str, text: str) -> Completion:
        """Complete when it was sent. Raises TooLarge, Overloaded."""
        done, ended = self._begin_to_send(process, text)

        def sent(answer: Answer[Done]) -> None:
            error = answer.error
            if isinstance(error, Unavailable):
                error = StoreUnavailable(f"it may not have been sent: {error.message}", cause=error.code)
            ended(error)

        try:
            self._hub.request(KVSTORE, Broadcast(topic, text), sent, timeout=WITHIN, scope=process.scope)
        except PieError as exc:
            done.close()
            ended(exc)
            raise
        return done

    def subscribe(
        self,
        process: Process,
        topic: str,
        is_wanted: Callable[[], bool],
        then: Callable[[Subscription | PieError], None],
    ) -> None:
        """`then` is called when broadcasts come in, or cannot; not if it is not wanted any more by then.

        Raises:
            Overloaded: the process has too many.
        """
        mail = self._of(process)
        if mail.subscriptions >= MAX_SUBSCRIPTIONS:
            raise Overloaded(f"{MAX_SUBSCRIPTIONS} `subscriptions` are open: drop some")
        tenant = process.scope.tenant
        if not self._subscriptions.take(tenant):
            raise Overloaded(
                f"{self._subscriptions.of(tenant)} subscriptions of tenant {tenant} are open on this runner, its share "
                f"of {MAX_ALL_SUBSCRIPTIONS}: drop some"
            )
        channel: Channel = (tenant, process.scope.user, topic)
        mail.subscriptions += 1
        self._entering[channel] += 1

        def closed() -> None:
            mail.subscriptions -= 1
            self._subscriptions.give_back(tenant)

        def leave(subscription: Subscription) -> None:
            closed()
            self._listening[channel].pop(subscription, None)
            self._unsubscribe_if_unused(channel)

        def entered(error: PieError | None) -> None:
            self._entering[channel] -= 1
            if error is None and is_wanted():
                try:
                    subscription = Subscription(process.waitables, leave, self._heard_bytes, tenant)
                except PieError as exc:  # the program holds as many waitables as it may
                    error = exc
                else:
                    self._listening.setdefault(channel, {})[subscription] = None
                    then(subscription)
                    return
            closed()
            self._unsubscribe_if_unused(channel)
            if error is not None and is_wanted():
                then(error)

        self._repeat(Subscribe(topic), process.scope, entered, within=WITHIN)

    def _unsubscribe_if_unused(self, channel: Channel) -> None:
        if self._listening.get(channel) or self._entering[channel]:
            return
        self._listening.pop(channel, None)
        del self._entering[channel]
        joining = self._joining.pop(channel, None)
        if joining is not None:
            joining.cancel()
        peer = self._hub.peer(KVSTORE)
        if peer is not None:
            self._hub.send(peer, Unsubscribe(channel[2]), scope=Scope(channel[0], channel[1]))

    def _heard(self, incoming: Incoming[Broadcasted]) -> None:
        message = incoming.message
        for subscription in list(self._listening.get((message.tenant, message.user, message.topic), ())):
            subscription.lost += message.lost
            subscription.give(message.text)

    # -- the link

    def up(self) -> None:
        """A new link to kvstore, which knows of no pull and no subscription."""
        for mail in self._mail.values():
            for pull in list(mail.pulls.values()):
                if pull.asking is None and pull.delivery is None:
                    self._register(pull)
        for channel in list(self._listening):
            if channel not in self._joining:
                self._join(channel)

    def _join(self, channel: Channel) -> None:
        def joined(error: PieError | None) -> None:
            self._joining.pop(channel, None)
            if error is not None:
                log.error("a subscription is lost", topic=channel[2], code=error.code, reason=error.message)

        scope = Scope(channel[0], channel[1])
        self._joining[channel] = self._repeat(Subscribe(channel[2]), scope, joined, within=None)

    def _repeat(
        self,
        request: PushMessage | PullMessage | SettleMessages | Subscribe,
        scope: Scope,
        then: Callable[[PieError | None], None],
        *,
        within: float | None,
    ) -> Repeated:
        return Repeated(self._hub, self._timers, request, scope, then, within=within)


def _checked_size(text: str) -> int:
    """In bytes. Raises TooLarge."""
    size = byte_size(text)
    if size > MAX_QUEUED_BYTES:
        raise TooLarge(f"a message of a topic has at most {MAX_QUEUED_BYTES} bytes: send a reference to larger data")
    return size
