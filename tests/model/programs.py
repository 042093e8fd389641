"""Programs as generators: they call the real host functions and yield what parks a fiber."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from pie_runner.host import TABLE
from pie_runner.process import Process
from pie_runner.programs import Outcome
from pie_runner.wasm.hostcall import Case, Err, Ok, Pending
from pie_wire.errors import ErrorInfo, InternalError, PieError, from_info, to_error

Program = Generator[Pending, None, str]
Call = Callable[..., Generator[Pending, None, Any]]


class Fiber:
    """Stands where a Wasm fiber stands: `data` is its process, `wake` makes it ready."""

    def __init__(self, host: GeneratorHost, process: Process, exited: Callable[[Outcome], None]) -> None:
        self.data = process
        self.host = host
        self.exited = exited
        self.pending: Pending | None = None
        self.program: Program | None = None
        self.ended = False

    def wake(self) -> None:
        self.host.ready.append(self)

    def kill(self, reason: PieError) -> None:
        self.ended = True
        if self.pending is not None:
            self.pending.abandon()
        if self.program is not None:
            self.program.close()


class GeneratorHost:
    """Implements ProgramHost: the artifact's text names the program in `programs`."""

    def __init__(self, programs: dict[str, Callable[[Call, dict[str, Any]], Program]]) -> None:
        self.programs = programs
        self.ready: deque[Fiber] = deque()
        self.starting: deque[tuple[Fiber, Program, Callable[[], None]]] = deque()

    def start(
        self,
        process: Process,
        artifact: Callable[[], bytes],
        on_running: Callable[[], None],
        on_exit: Callable[[Outcome], None],
    ) -> Fiber:
        fiber = Fiber(self, process, on_exit)
        program = self.programs[artifact().decode()](caller(fiber), json.loads(process.input))
        self.starting.append((fiber, program, on_running))
        return fiber

    def run(self) -> None:
        """Step everything that is ready."""
        while self.starting:
            fiber, program, on_running = self.starting.popleft()
            if not fiber.ended:
                fiber.program = program
                on_running()
                self.step(fiber)
        while self.ready:
            fiber = self.ready.popleft()
            if not fiber.ended and fiber.pending is not None and fiber.pending.done:
                self.step(fiber)

    def step(self, fiber: Fiber) -> None:
        assert fiber.program is not None
        try:
            while True:
                fiber.pending = next(fiber.program)
                if not fiber.pending.done:
                    return
        except StopIteration as stop:
            fiber.ended = True
            fiber.exited(stop.value)
        except PieError as exc:
            fiber.ended = True
            fiber.exited(exc)


def caller(fiber: Fiber) -> Call:
    """`value = yield from call(interface, function, *arguments)`: errors raise, a Pending waits."""

    def call(interface: str, name: str, *arguments: Any) -> Generator[Pending, None, Any]:
        value: Any = TABLE[interface, name](fiber, *arguments)
        if isinstance(value, Pending):
            pending = value
            while not pending.done:
                yield pending
            if pending.error is not None:
                raise to_error(pending.error)
            value = pending.convert(pending.result) if pending.convert else pending.result
        if isinstance(value, Err):
            raise _error(value.error)
        return value.value if isinstance(value, Ok) else value

    return call


def _error(value: Any) -> PieError:
    if isinstance(value, PieError):
        return value
    if hasattr(value, "code"):
        return from_info(ErrorInfo(value.code, value.message, value.retryable))
    return InternalError(f"unexpected error value {value!r}")


@dataclass(frozen=True)
class Sampler:
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0


@dataclass(frozen=True)
class Spec:
    sampler: Sampler
    seed: int | None
    stop_ids: list[int]
    max_tokens: int | None
    window: int | None
    text: bool = False


def decode(call: Call, given: dict[str, Any]) -> Program:
    """Append a prompt, decode `count` tokens, send each; with `fork`, go on in a fork half-way."""
    model = yield from call("model", "[static]model.load", "")
    context = yield from call("context", "[static]context.create", model)
    yield from call("context", "[method]context.append", context, given["prompt"])
    produced: list[int] = []
    for part in given["parts"]:
        spec = Spec(Sampler(), None, [], part, given["window"])
        run = yield from call("generation", "[static]run.open", context, spec)
        while True:
            step = yield from call("generation", "[method]run.next", run)
            if step is None:
                number = yield from call("generation", "[method]run.id", run)
                yield from call("futures", "wait-any", [number])
                continue
            for token in step.tokens:
                produced.append(token)
                yield from call("session", "send", str(token), "wait")
            if step.finish is not None or len(produced) >= given.get("stop_after", 1 << 30):
                break
        run.close()
        if given.get("fork"):
            fork = yield from call("context", "[method]context.fork", context)
            context.close()
            context = fork
    held = yield from call("context", "[method]context.tokens", context)
    context.close()
    return json.dumps({"produced": produced, "held": list(held)})


def talk(call: Call, given: dict[str, Any]) -> Program:
    """Echo `count` messages of the client."""
    for _ in range(given["count"]):
        waiting = yield from call("session", "receive")
        while True:
            message = yield from call("session", "[method]pending-message.get", waiting)
            if message is not None:
                break
            number = yield from call("session", "[method]pending-message.id", waiting)
            yield from call("futures", "wait-any", [number])
        assert isinstance(message, Case)
        yield from call("session", "send", f"echo {message.value}", "wait")
        waiting.close()
    return "null"


PROGRAMS: dict[str, Callable[[Call, dict[str, Any]], Program]] = {"decode": decode, "talk": talk}
