"""Generations driven at the engine itself, for comparison with the same through all services.

Requests come as JSON lines, an answer for each, so that the two can take turns on one machine with the model loaded in
both.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from pie_wire.errors import BadField, InternalError
from pie_wire.messages import engine as wire

from pie_engine.bench.stand import Stand
from pie_engine.bench.traffic import GREEDY, Tokens

_WINDOW = 32
_IDLE_STEPS = 1000


@dataclass
class _Stream:
    """One request: when its first and last token came."""

    context: int
    run: int = 0
    tokens: int = 0
    first: float = 0.0
    last: float = 0.0
    spare: list[int] = field(default_factory=list[int])
    """Tokens to feed in lockstep: which ones does not matter to the time."""

    def took(self, count: int, now: float) -> None:
        if count:
            self.first = self.first or now
            self.last = now
            self.tokens += count


def drive(stand: Stand, lines: Iterable[str]) -> Iterator[str]:
    """Answer requests {"streams", "prompt", "tokens", "lockstep"} with {"ms_per_token", "engine_us_per_token"}: the
    median over the streams of each one's own pace after its first token, and processor time of this process."""
    tokens = Tokens(stand.model.info.vocab_size, f"driven-{time.time_ns()}")
    for line in lines:
        asked = json.loads(line)
        count, length = int(asked["streams"]), int(asked["tokens"])
        if count < 1 or length < 2:
            raise BadField("at least one stream of at least two tokens can be driven")
        streams = [
            _Stream(stand.create(tokens.draw(int(asked["prompt"]))), spare=tokens.draw(length)) for _ in range(count)
        ]
        cpu = time.process_time()
        (_lockstep if asked["lockstep"] else _runs)(stand, streams, length)
        cpu = time.process_time() - cpu
        for stream in streams:
            stand.send(wire.Drop(stream.context))
        stand.settle()
        pace = statistics.median((s.last - s.first) / (s.tokens - 1) for s in streams)
        yield json.dumps({"ms_per_token": pace * 1000, "engine_us_per_token": cpu / (count * length) * 1e6})


def _runs(stand: Stand, streams: list[_Stream], length: int) -> None:
    """The engine decodes ahead; every token is consumed as soon as it came."""
    for stream in streams:
        stream.run = stand.new_id()
        stand.send(wire.OpenRun(stream.context, 0, stream.run, GREEDY, stream.run, [], length, _WINDOW))
    left = set(range(len(streams)))
    idle = 0
    while left:
        idle = 0 if stand.step().rows else idle + 1
        _must_move(idle)
        now = time.perf_counter()
        for at in list(left):
            stream = streams[at]
            stream.took(stand.received[stream.run] - stream.tokens, now)
            if stream.tokens >= length:
                left.discard(at)
            else:
                stand.send(wire.Consume(stream.context, stream.run, stream.tokens))


def _lockstep(stand: Stand, streams: list[_Stream], length: int) -> None:
    """One pass for each token, asked for when the one before it was answered."""
    asked: dict[int, _Stream] = {}
    idle = 0
    for stream in streams:
        _ask(stand, stream, asked)
    while asked:
        idle = 0 if stand.step().rows else idle + 1
        _must_move(idle)
        now = time.perf_counter()
        for op in stand.take_outputs():
            stream = asked.pop(op)
            stream.took(1, now)
            if stream.tokens < length:
                _ask(stand, stream, asked)


def _ask(stand: Stand, stream: _Stream, asked: dict[int, _Stream]) -> None:
    fed = [stream.spare[stream.tokens - 1]] if stream.tokens else []
    outputs = [wire.Output(0, "token", GREEDY, 1)]
    asked[stand.send(wire.Forward(stream.context, 0, fed, outputs))] = stream


def _must_move(idle: int) -> None:
    if idle > _IDLE_STEPS:
        raise InternalError("the engine does nothing more for streams that have not ended")
