"""A run whose steps are taken in the program's place: the program sleeps until the last one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from pie_wire.errors import Closed, PieError

from pie_runner.waitables import Waitable
from pie_runner.wasm.hostcall import Err, Ok

if TYPE_CHECKING:
    from pie_runner.runs import Finish, Run

Forward = Callable[[str, Callable[[], None]], bool]
"""Takes a piece of text. False: it waits for room, and the second argument is called once it is written."""


class Rest(NamedTuple):
    """The WIT's `rest`."""

    tokens: list[int]
    text: str
    finish: Finish


class PendingRest(Waitable):
    """The WIT's `pending-rest`. Its session calls `go_on` when the run has got something, once the message that brought
    it is read."""

    def __init__(self, run: Run, forward: Forward | None) -> None:
        """`forward` gets the text of each step."""
        super().__init__(run.context.owner.waitables)
        self._run = run
        self._forward = forward
        self._tokens: list[int] = []
        self._pieces: list[str] = []
        self._answer: Ok | Err | None = None
        """Not told while the last piece waits for room."""
        self._taken = False
        self._waits = False
        """A piece waits for room at the client."""
        self._is_going = False

    @property
    def ready(self) -> bool:
        return self._taken or (self._answer is not None and not self._waits)

    def go_on(self) -> None:
        """Take what steps there are."""
        if self._is_going:  # the run tells of its own end while a step is taken
            return
        self._is_going = True
        try:
            while not self._waits and not self.ready and self._take():
                pass
        finally:
            self._is_going = False

    def _take(self) -> bool:
        """One step. False when none is here."""
        try:
            step = self._run.next()
        except PieError as exc:
            self._end(Err(exc.info()))
            return False
        if step is None:
            return False
        self._tokens += step.tokens
        self._pieces.append(step.text)
        if step.text and self._forward is not None:
            self._waits = not self._forward(step.text, self._sent)
        if step.finish is not None:
            self._end(Ok(Rest(self._tokens, "".join(self._pieces), step.finish)))
        return True

    def get(self) -> Ok | Err | None:
        """The rest, once."""
        if self._taken:
            return Err(Closed("the rest of this run was already taken").info())
        if not self.ready:
            return None
        self._taken = True
        answer, self._answer = self._answer, None
        return answer

    def close(self) -> None:
        """The program dropped its handle. A piece that waits for room is on its way: its tokens are in the context."""
        super().close()
        self._taken = True
        self._answer = None
        self._run.drained(self)

    def _sent(self) -> None:
        self._waits = False
        if self._answer is None:
            self.go_on()
        else:
            self._end(self._answer)

    def _end(self, answer: Ok | Err) -> None:
        self._answer = answer
        if not self._waits:
            self._run.drained(self)
            self.notify()
