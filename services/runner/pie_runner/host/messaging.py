"""Messages between programs of one user."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pie_wire.errors import BadRequest, PieError

from pie_runner.host.futures import waitable_id
from pie_runner.host.methods import reading
from pie_runner.messaging.mail import PendingPull
from pie_runner.messaging.subscription import Subscription
from pie_runner.process import process_of
from pie_runner.wasm.hostcall import HostFunction, Ok, Pending

if TYPE_CHECKING:
    from pie_runner.waitables import Completion
    from pie_runner.wasm.fiber import Fiber

MAX_TOPIC = 200


def push(fiber: Fiber, topic: str, message: str) -> Completion:
    """To the topic's queue."""
    process = process_of(fiber)
    return process.facilities.post.push(process, _topic(topic), message)


def pull(fiber: Fiber, topic: str) -> PendingPull:
    """From the topic's queue."""
    process = process_of(fiber)
    return process.facilities.post.pull(process, _topic(topic))


def acknowledge(fiber: Fiber, message: int) -> Pending:
    """Waits until it is done with."""
    process = process_of(fiber)
    pending = Pending(fiber)

    def settled(error: PieError | None) -> None:
        if error is None:
            pending.resolve(Ok())
        else:
            pending.fail(error)

    process.facilities.post.acknowledge(process, message, settled)
    return pending


def broadcast(fiber: Fiber, topic: str, message: str) -> Completion:
    """To all who are subscribed."""
    process = process_of(fiber)
    return process.facilities.post.broadcast(process, _topic(topic), message)


def subscribe(fiber: Fiber, topic: str) -> Pending:
    """Waits until it is in force."""
    process = process_of(fiber)
    pending = Pending(fiber)

    def entered(answer: Subscription | PieError) -> None:
        if isinstance(answer, Subscription):
            pending.resolve(Ok(answer))
        else:
            pending.fail(answer)

    process.facilities.post.subscribe(process, _topic(topic), lambda: not pending.done, entered)
    return pending


def _topic(name: str) -> str:
    if not name or len(name) > MAX_TOPIC or not name.isprintable():
        raise BadRequest(f"a topic name has 1 to {MAX_TOPIC} printable characters, not {name[:40]!r}")
    return name


FUNCTIONS: Mapping[str, HostFunction] = {
    "push": push,
    "pull": pull,
    "acknowledge": acknowledge,
    "broadcast": broadcast,
    "subscribe": subscribe,
    "[method]pending-pull.id": waitable_id,
    "[method]pending-pull.get": reading(PendingPull, PendingPull.get),
    "[method]subscription.id": waitable_id,
    "[method]subscription.next": reading(Subscription, Subscription.next),
    "[method]subscription.lost": reading(Subscription, lambda subscription: subscription.lost),
}
