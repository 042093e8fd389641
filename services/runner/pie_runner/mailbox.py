"""What the client sent, in order, each for one `session.receive` (or `receive-file`)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from pie_wire.errors import Closed, Overloaded, PieError, TooLarge
from pie_wire.texts import byte_size

from pie_runner.process_limits import of_runner
from pie_runner.waitables import Waitable, Waitables
from pie_runner.wasm.hostcall import Case, Err, Ok


class Post(Protocol):
    """Anything that is sent."""

    @property
    def value(self) -> str | bytes:
        """What its size is counted by."""
        ...

    @property
    def answer(self) -> object:
        """What the program gets."""
        ...


@dataclass(frozen=True)
class Letter:
    """A message: text, or bytes with tag `data`."""

    tag: str
    value: str | bytes

    @property
    def answer(self) -> Case:
        return Case(self.tag, self.value)


class Mailbox:
    """Letters not asked for yet, and receives not answered yet; never both. A letter takes room until the program has
    got it, so that receives which are never read hold no more than the box does."""

    def __init__(
        self, waitables: Waitables, max_messages: int, max_bytes: int, where: Callable[[str], str] = of_runner
    ) -> None:
        """`where`: where the operator sets `messages` and `message_bytes`."""
        self._waitables = waitables
        self._where = where
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._letters: deque[Post] = deque()
        self._held = 0
        """Letters that the program has not got, those included that a receive has."""
        self._bytes = 0
        """Of these."""
        self._receives: deque[PendingMessage] = deque()

    def __len__(self) -> int:
        return self._held

    @property
    def size(self) -> int:
        """Bytes of what the program has not got."""
        return self._bytes

    def deliver(self, letter: Post) -> None:
        """A message came in.

        Raises:
            Overloaded: the program does not receive, and the box is full. TooLarge: the message never has room.
        """
        size = byte_size(letter.value)
        if self._held >= self._max_messages or self._bytes + size > self._max_bytes:
            raise self._full(size)
        self._held += 1
        self._bytes += size
        if self._receives:
            self._receives.popleft().give(letter)
        else:
            self._letters.append(letter)

    def receive(self) -> PendingMessage:
        """Ask for the next message."""
        pending = PendingMessage(self._waitables, self)
        if self._letters:
            pending.give(self._letters.popleft())
        else:
            self._receives.append(pending)
        return pending

    def _full(self, size: int) -> PieError:
        """The error of a message of `size` bytes."""
        if self._held >= self._max_messages:
            name, most = "messages", self._max_messages
        else:
            name, most = "message_bytes", self._max_bytes
        limit, raises = f"its limit {name} = {most}", f"the operator can raise it ({self._where(name)})"
        if not self._max_messages or size > self._max_bytes:
            return TooLarge(f"the program takes no message of {size} bytes, for {limit}: send less at once; {raises}")
        return Overloaded(
            f"{self._held} messages with {self._bytes} bytes wait for the program, and another one of {size} bytes "
            f"passes {limit}: try again when it has received some; {raises}"
        )

    def got(self, letter: Post) -> None:
        """The program has it now."""
        self._held -= 1
        self._bytes -= byte_size(letter.value)

    def put_back(self, letter: Post) -> None:
        """A message that was given but never got: it is the next one again."""
        if self._receives:
            self._receives.popleft().give(letter)
        else:
            self._letters.appendleft(letter)

    def forget(self, pending: PendingMessage) -> None:
        """A receive was dropped before its message came."""
        if pending in self._receives:
            self._receives.remove(pending)


class PendingMessage(Waitable):
    """The WIT's `pending-message` and `pending-file`."""

    def __init__(self, table: Waitables, box: Mailbox) -> None:
        super().__init__(table)
        self._box = box
        self._letter: Post | None = None
        self._taken = False

    @property
    def ready(self) -> bool:
        return self._letter is not None or self._taken

    def give(self, letter: Post) -> None:
        """Its message has come."""
        self._letter = letter
        self.notify()

    def get(self) -> Ok | Err | None:
        if self._taken:
            return Err(Closed("this message was already received: call `receive` for the next one").info())
        if self._letter is None:
            return None
        letter, self._letter, self._taken = self._letter, None, True
        self._box.got(letter)
        return Ok(letter.answer)

    def close(self) -> None:
        super().close()
        letter, self._letter = self._letter, None
        if letter is not None:
            self._box.put_back(letter)
        elif not self._taken:
            self._box.forget(self)
