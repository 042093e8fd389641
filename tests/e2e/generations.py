"""Ten clients' generations at once, and what became of each."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from e2e_stack import eventually
from pie_wire.errors import PieError, from_info
from pie_wire.messages.common import Event
from pie_zmq import Client, Process

PROMPTS = [f"{number} little ducks went swimming one day," for number in range(1, 11)]


@dataclass
class Generation:
    """One streamed text-completion, read by a thread of its own."""

    process: Process
    events: list[Event] = field(default_factory=list[Event])
    ended_at: float = 0.0
    failure: PieError | None = None
    """The client's own error; what the process ended with is in its last event."""

    def read(self) -> None:
        try:
            for event in self.process.events():
                self.events.append(event)
        except PieError as exc:
            self.failure = exc
        self.ended_at = time.monotonic()

    @property
    def pieces(self) -> list[str]:
        return [event.text for event in self.events if event.kind == "message"]

    @property
    def error(self) -> PieError | None:
        last = self.events[-1]
        return from_info(last.error) if last.error is not None else self.failure

    @property
    def text(self) -> str:
        """What it returned; raises what it failed with. Its numbers are dense, and it is what its messages said."""
        if self.error is not None:
            raise self.error
        assert [event.seq for event in self.events] == list(range(1, len(self.events) + 1))
        text = self.process.result(0)
        assert "".join(self.pieces) == text
        return text


class Generations:
    """Greedy text-completion of many prompts at once."""

    def __init__(self, client: Client, prompts: list[str], max_tokens: int) -> None:
        options = {"max_tokens": max_tokens, "temperature": 0.0}
        self.all = [Generation(client.launch("text-completion", {"prompt": p, **options})) for p in prompts]
        self._pool = ThreadPoolExecutor(len(prompts))
        self._readers: list[Future[None]] = [self._pool.submit(one.read) for one in self.all]

    def under_way(self, pieces: int = 3) -> None:
        """Until every one has said something."""
        eventually("all generations stream", lambda: all(len(one.pieces) >= pieces for one in self.all), 60.0)

    def wait(self, within: float = 120.0) -> None:
        """Until every one has ended."""
        for reader in self._readers:
            reader.result(within)
        self._pool.shutdown()

    def texts(self) -> list[str]:
        return [one.text for one in self.all]

    def latest_end(self, of: Callable[[Generation], bool] = lambda _: True) -> float:
        return max(one.ended_at for one in self.all if of(one))


def texts_of(client: Client, prompts: list[str], max_tokens: int) -> list[str]:
    """What undisturbed generations say."""
    generations = Generations(client, prompts, max_tokens)
    generations.wait()
    return generations.texts()
