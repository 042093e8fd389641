"""An engine that does nothing but answer, in a process of its own, and the runner's link to it.

The messages are those of decoding: an operation for each program that waits, all of a turn in one `eng.ops`, and one
`run.step` back with a token for each.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from pie_wire.errors import InternalError, PeerLost
from pie_wire.hub import Hub, Incoming
from pie_wire.messages.engine import Consume, Ops
from pie_wire.messages.runner import Step
from pie_wire.process import identity
from pie_wire.transport import Transport

from pie_runner.bench.stand import Life

PORT = "engine:echo"
_START_SECONDS = 20.0
_ANSWER_SECONDS = 30.0


class EchoLink:
    """The runner's end."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="pie-bench-")
        self._endpoint = f"ipc://{self._folder.name}/echo.sock"
        self._hub = Hub(identity("runner", "bench"), time.monotonic)
        self._transport = Transport(self._hub)
        self._asked: dict[int, Life] = {}
        self._next_op = 1
        self._hub.on(Step, self._step)

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "pie_runner.bench.echo", self._endpoint]
        self._process = subprocess.Popen(command)
        self._transport.dial(PORT, self._endpoint)
        deadline = time.monotonic() + _START_SECONDS
        while self._hub.peer(PORT) is None:
            if time.monotonic() > deadline or self._process.poll() is not None:
                self.close()
                raise InternalError("the echo engine did not start")
            self._transport.poll(0.01)
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the link and the process."""
        self._transport.close(PeerLost("the benchmark is over"))
        self._process.terminate()
        self._process.wait(10)
        self._folder.cleanup()

    def ask(self, lives: Sequence[Life]) -> None:
        """One message with an operation for each, until all have their answer."""
        peer = self._hub.peer(PORT)
        if peer is None:
            raise InternalError("the echo engine is gone")
        self._asked = {life.echo.number: life for life in lives}
        self._hub.send(peer, Ops(self._next_op, [Consume(number, number, 1) for number in self._asked]))
        self._next_op += len(self._asked)
        deadline = time.monotonic() + _ANSWER_SECONDS
        self._transport.flush()
        while self._asked:
            if time.monotonic() > deadline:
                raise InternalError("the echo engine does not answer")
            self._transport.poll(0.1)

    def _step(self, incoming: Incoming[Step]) -> None:
        for number in incoming.message.runs:
            self._asked.pop(number).echo.answer()


def serve(endpoint: str) -> None:
    """Answer for ever; ends with its parent's SIGTERM."""
    hub = Hub(identity("engine", "echo"), time.monotonic)

    def answer(incoming: Incoming[Ops]) -> None:
        ops = incoming.message.ops
        runs = [op.run for op in ops if isinstance(op, Consume)]
        acked = incoming.message.first + len(ops) - 1
        hub.send(incoming.peer, Step(acked, runs=runs, counts=[1] * len(runs), tokens=[7] * len(runs)))

    hub.on(Ops, answer)
    transport = Transport(hub)
    transport.bind("runners", endpoint)
    while True:
        transport.poll(0.1)


if __name__ == "__main__":
    serve(sys.argv[1])
