"""What one process has pulled and not acknowledged, and what it waits for."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pie_wire.errors import Closed, PieError

from pie_runner.waitables import Waitable, Waitables
from pie_runner.wasm.hostcall import Err, Ok

if TYPE_CHECKING:
    from pie_runner.messaging.post import Post
    from pie_runner.messaging.repeated import Repeated
    from pie_runner.process import Process


class Delivery(NamedTuple):
    """The WIT's `delivery`."""

    message: int
    text: str
    redeliveries: int


class Mail:
    """Of one process. `got`: messages that the program has in hand, with their topic, until it acknowledges them."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.pulls: dict[int, PendingPull] = {}
        self.got: dict[int, str] = {}
        self.sending = 0
        """Messages that are not stored, or not sent on, yet."""
        self.subscriptions = 0
        """Open, or not in force yet."""
        self._numbers = 0

    def next_number(self) -> int:
        """Of a pull or push."""
        self._numbers += 1
        return self._numbers

    def has(self, message: int) -> bool:
        """The program has it in hand, or is about to acknowledge it."""
        return message in self.got or any(message in pull.acknowledged for pull in self.pulls.values())

    @property
    def is_empty(self) -> bool:
        """kvstore keeps nothing for this process."""
        return not self.pulls and not self.got


class PendingPull(Waitable):
    """The WIT's `pending-pull`."""

    def __init__(self, table: Waitables, post: Post, mail: Mail, topic: str) -> None:
        super().__init__(table)
        self.mail = mail
        self.topic = topic
        self.number = mail.next_number()
        self.acknowledged = [message for message, name in mail.got.items() if name == topic]
        """Done with by this pull; not for certain until it is registered."""
        self.asking: Repeated | None = None
        """Its registration, while that is under way."""
        self.delivery: Delivery | None = None
        self._post = post
        self._error: PieError | None = None
        self._taken = False
        for message in self.acknowledged:
            del mail.got[message]

    @property
    def ready(self) -> bool:
        return self.delivery is not None or self._error is not None or self._taken

    def give(self, delivery: Delivery) -> None:
        """Its message has come; a second time it is the same one."""
        if not self.ready:
            self.delivery = delivery
            self.notify()

    def fail(self, error: PieError) -> None:
        """None will come."""
        self._error = error
        self.notify()

    def get(self) -> Ok | Err | None:
        if self._taken:
            return Err(Closed("this message was already pulled: call `pull` for the next one").info())
        if self._error is not None:
            self._taken = True
            return Err(self._error.info())
        if self.delivery is None:
            return None
        self._taken = True
        self.mail.got[self.delivery.message] = self.topic
        self._post.taken(self)
        return Ok(self.delivery)

    def close(self) -> None:
        super().close()
        if not self._taken:
            self._taken = True
            self._post.dropped(self)
