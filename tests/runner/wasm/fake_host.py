"""A scripted host: the engine's answers are decided by the test, everything else is real."""

from __future__ import annotations

import heapq
import itertools
import json
import random
import struct
import time
from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
from pie_runner.host import logits
from pie_runner.logits import Logits
from pie_runner.stop_strings import StopStrings
from pie_runner.wasm.hostcall import Case, Err, HostTable, Ok, Pending
from pie_runner.wasm.world import offered_world
from pie_wire.errors import BadRequest, Closed, NotFound, Unsupported

FIRST_TOKEN = 97
STOP = 0
VOCABULARY = b64encode(struct.pack("<I256H", 256, *[1] * 256) + bytes(range(256))).decode()


@dataclass
class Instance:
    """What the host knows about one running program (`fiber.data`)."""

    arguments: str = "null"
    cause: str = ""
    sent: list[str | bytes] = field(default_factory=list)
    out: list[tuple[str, str]] = field(default_factory=list)
    inbox: list[str | bytes] = field(default_factory=list)
    waitables: dict[int, Waitable] = field(default_factory=dict)
    waiting: list[tuple[Pending, list[int]]] = field(default_factory=list)
    logs: list[tuple[str, str]] = field(default_factory=list)


class Waitable:
    """A future: answered by the test or a timer."""

    def __init__(self, host: FakeHost, fiber: Any) -> None:
        self.host = host
        self.fiber = fiber
        self.id = next(host.ids)
        self.value: object = None
        self.closed = False
        fiber.data.waitables[self.id] = self
        host.open_resources += 1

    @property
    def ready(self) -> bool:
        return self.value is not None

    def answer(self, value: object) -> None:
        self.value = value
        self.host.notify(self.fiber)

    def close(self) -> None:
        self.closed = True
        self.host.open_resources -= 1
        del self.fiber.data.waitables[self.id]


class Run(Waitable):
    """Decodes letters: each token is the one before it plus one, through the host's batch."""

    def __init__(self, host: FakeHost, fiber: Any, context: Context, spec: Any) -> None:
        super().__init__(host, fiber)
        self.context = context
        self.spec = spec
        self.steps: list[Any] = []
        self.stops = StopStrings(spec.stop_strings)
        self.paused = False
        self.produced = 0
        self.rest: Rest | None = None
        self.finish: str | None = None
        host.runs.append(self)
        host.specs.append(spec)

    @property
    def ready(self) -> bool:
        return bool(self.steps) or self.finish is not None

    def produce(self) -> None:
        """One token, as an engine's step would."""
        if self.finish is not None or self.paused:
            return
        limit = self.spec.max_tokens
        last = self.context.tokens[-1] if self.context.tokens else FIRST_TOKEN - 1
        token = (last + 1 + len(self.steps)) % 128  # after the last letter comes STOP
        if token in self.spec.stop_ids:
            self.finish = "stop"
            self.steps.append(SimpleNamespace(tokens=[], text=self.stops.finish(), probes=[], finish="stop"))
        else:
            self.produced += 1
            text = self.stops.feed(chr(token)) if self.spec.stop_strings else chr(token)
            if self.stops.found:
                self.finish = "stop-string"
            elif limit is not None and self.produced >= limit:
                self.finish = "length"
                text += self.stops.finish()
            probes = [probed(self.host, probe) for probe in self.spec.probes]
            self.steps.append(SimpleNamespace(tokens=[token], text=text, probes=probes, finish=self.finish))
        if self.rest is not None:
            self.rest.collect()
        self.host.notify(self.fiber)

    def take(self) -> object:
        if self.steps:
            step = self.steps.pop(0)
            self.context.tokens += step.tokens
            return Ok(step)
        last = SimpleNamespace(tokens=[], text="", probes=[], finish=self.finish)
        return Ok(last) if self.finish is not None else None

    def close(self) -> None:
        super().close()
        if self in self.host.runs:
            self.host.runs.remove(self)
        if self.rest is not None and self.rest.value is None:
            self.rest.answer(Err(Closed("the run has been closed").info()))


class Rest(Waitable):
    """A drained run."""

    def __init__(self, fiber: Any, run: Run, sent_as: Case | None) -> None:
        super().__init__(run.host, fiber)
        self.run = run
        self.sent_as = sent_as
        self.tokens: list[int] = []
        self.text = ""
        run.rest = self
        self.collect()

    def collect(self) -> None:
        while self.value is None and (self.run.steps or self.run.finish is not None):
            step: Any = self.run.take()
            self.tokens += step.value.tokens
            self.text += step.value.text
            if self.sent_as is not None and step.value.text:
                field = self.sent_as.value
                message = step.value.text if field is None else json.dumps({field: step.value.text})
                self.fiber.data.sent.append(message)
            if step.value.finish is not None:
                self.value = Ok(SimpleNamespace(tokens=self.tokens, text=self.text, finish=step.value.finish))


class Simple:
    """A host resource that only counts."""

    def __init__(self, host: FakeHost) -> None:
        self.host = host
        host.open_resources += 1

    def close(self) -> None:
        self.host.open_resources -= 1


class Row(Simple):
    """A row of logits in the host."""

    def __init__(self, host: FakeHost, row: Logits) -> None:
        super().__init__(host)
        self.row = row

    def fork(self) -> Row:
        return Row(self.host, self.row.fork())


class Grammar(Simple):
    """Allows one text, given as a regular expression without operators, and matchers of it."""

    def __init__(self, host: FakeHost, text: str, done: int = 0) -> None:
        super().__init__(host)
        self.text = text
        self.done = done

    def accept(self, tokens: list[int]) -> None:
        for token in tokens:
            if self.text[self.done : self.done + 1] != chr(token):
                raise BadRequest("this may not follow")
            self.done += 1

    def mask(self) -> str:
        bits = bytearray(32)
        follows = ord(self.text[self.done]) if self.done < len(self.text) else STOP
        bits[follows // 8] |= 1 << follows % 8
        return b64encode(bytes(bits)).decode()

    def move(self, done: int) -> None:
        self.done = done

    def fork(self) -> Grammar:
        return Grammar(self.host, self.text, self.done)


def probed(host: FakeHost, kind: Case) -> Case:
    """An answer to a probe: of logits that are the ids themselves."""
    row = np.arange(256, dtype="<f4")
    match kind.tag:
        case "logits":
            return Case("logits", "AACAPwAAAEA=")
        case "hidden":
            return Case("hidden", "AACAPwAAAEA=")
        case "resident":
            return Case("resident", Row(host, Logits(row)))
        case "logprobs":
            return Case("logprobs", [-0.5] * len(kind.value))
        case "entropy":
            return Case("entropy", 1.5)
        case _:
            k = kind.value.k
            return Case("distribution", SimpleNamespace(ids=list(range(k)), probabilities=[1 / k] * k))


class Context(Simple):
    """Tokens without any KV."""

    def __init__(self, host: FakeHost, tokens: list[int]) -> None:
        super().__init__(host)
        self.tokens = tokens
        self.said: list[tuple[str, object]] = []
        """What the program told of its pages."""


class Conversation(Simple):
    """Turns as `<role>content;`."""

    def __init__(self, host: FakeHost, turns: list[str], open_: bool = False) -> None:
        super().__init__(host)
        self.turns = turns
        self.open = open_

    def seal(self) -> str:
        was, self.open = self.open, False
        return ";" if was else ""


class FakeHost:
    """Holds the clock's timers and the engine's runs; `settle` advances both until nothing is ready."""

    def __init__(self) -> None:
        self.ids = itertools.count(1)
        self.timers: list[tuple[float, int, Waitable]] = []
        self.runs: list[Run] = []
        self.specs: list[Any] = []
        """Of all runs that were opened."""
        self.open_resources = 0
        self.random = random.Random(7)
        self.slept = 0.0

    def notify(self, fiber: Any) -> None:
        """Something of this fiber became ready: answer its wait."""
        data = fiber.data
        for pending, ids in list(data.waiting):
            ready = [i for i in ids if i not in data.waitables or data.waitables[i].ready]
            if ready:
                data.waiting.remove((pending, ids))
                pending.resolve(ready)

    def taken(self, fiber: Any, waitable: Waitable, take: Callable[[], object]) -> object:
        """What `take` gives, once the waitable is ready."""
        if waitable.ready:
            return take()
        pending = Pending(fiber)
        pending.convert = lambda _: take()
        fiber.data.waiting.append((pending, [waitable.id]))
        return pending

    def advance(self) -> bool:
        """Let time and engine make one step. False when nothing can happen any more."""
        for run in list(self.runs):
            run.produce()
        while self.timers and self.timers[0][2].closed:
            heapq.heappop(self.timers)
        if self.timers:
            due, _, waitable = self.timers[0]
            delay = due - time.monotonic()
            if delay <= 0:
                heapq.heappop(self.timers)
                waitable.answer(Ok())
            elif not any(run.finish is None for run in self.runs):
                time.sleep(min(delay, 0.005))
            return True
        return any(run.finish is None for run in self.runs)

    def drive(self, driver: Any, timeout: float = 20.0, until: Callable[[], bool] | None = None) -> None:
        """Run fibers, engine and timers until all fibers are done (or `until` holds)."""
        end = time.monotonic() + timeout
        done = until or (lambda: not driver.fibers)
        while not done():
            if time.monotonic() > end:
                raise TimeoutError(f"{len(driver.fibers)} fibers are still running")
            if driver.has_work:
                driver.run_ready()
            if not self.advance() and not driver.has_work and not done():
                return

    def table(self) -> HostTable:
        """Every function of the world; those that no test here needs refuse."""
        names = {(interface.rpartition("/")[2].partition("@")[0], name) for interface, name in offered_world()}
        scripted = {**self._small(), **self._waiting(), **self._models(), **self._contexts(), **self._memory()}
        return {**dict.fromkeys(names, _refuse), **scripted}

    def _memory(self) -> dict[tuple[str, str], Callable[..., object]]:
        def done(fiber: Any, *_: object) -> Waitable:
            waitable = Waitable(self, fiber)
            waitable.value = Ok()
            return waitable

        def export(fiber: Any, context: Context) -> Waitable:
            waitable = Waitable(self, fiber)
            waitable.value = Ok(b64encode(bytes(context.tokens)).decode())
            return waitable

        def noted(word: str) -> Callable[..., None]:
            return lambda fiber, context, value: context.said.append((word, value))

        adapter = SimpleNamespace(name="style", digest="abcd", rank=8, current=True)
        receipt = SimpleNamespace(restored=False, reason="suspend", how="swapped", tokens=3, pages=1, seconds=0.0)
        return {
            ("context", "[method]context.model"): lambda f, c: Simple(self),
            ("context", "[method]context.drop-tokens"): done,
            ("context", "[method]context.reserve"): noted("reserve"),
            ("context", "[method]context.commit"): done,
            ("context", "[method]context.release"): noted("release"),
            ("context", "[method]context.pages"): lambda f, c: SimpleNamespace(committed=0, working=1, room=None),
            ("context", "[method]context.pin"): done,
            ("context", "[static]context.unpin"): lambda f, m, name: None,
            ("context", "[static]context.prefetch"): lambda f, m, name: False,
            ("context", "[method]context.set-adapters"): noted("adapters"),
            ("context", "[method]context.export"): export,
            ("context", "[static]context.import"): lambda f, m, data: Context(self, list(b64decode(data))),
            ("scheduling", "current-pressure"): lambda f, m: SimpleNamespace(level="low", demand=0.5, price=0.0),
            ("scheduling", "when-pressure"): done,
            ("scheduling", "latency"): lambda f, m: 0.01,
            ("scheduling", "bid"): noted("bid"),
            ("scheduling", "idle"): noted("idle"),
            ("scheduling", "suspend"): done,
            ("scheduling", "rent"): lambda f, c: float(len(c.said)),
            ("scheduling", "balance"): lambda f, c: -1.0,
            ("scheduling", "receipts"): lambda f, c: [receipt],
            ("adapters", "available"): lambda f, m: [adapter],
        }

    def _small(self) -> dict[tuple[str, str], Callable[..., object]]:
        def send(fiber: Any, text: str, full: str) -> None:
            fiber.data.sent.append(text)

        def write(fiber: Any, level: str, message: str) -> None:
            fiber.data.logs.append((level, message))

        return {
            ("runtime", "version"): lambda f: "1.2.3",
            ("runtime", "instance-id"): lambda f: "p-1",
            ("runtime", "user"): lambda f: "local",
            ("runtime", "tenant"): lambda f: "local",
            ("runtime", "program"): lambda f: "test@0.0.1",
            ("runtime", "arguments"): lambda f: f.data.arguments,
            ("runtime", "models"): lambda f: ["letters"],
            ("runtime", "set-cause"): lambda f, code: setattr(f.data, "cause", code),
            ("random", "get-bytes"): lambda f, n: self.random.randbytes(n),
            ("log", "stdout"): lambda f, text: f.data.out.append(("stdout", text)),
            ("log", "stderr"): lambda f, text: f.data.out.append(("stderr", text)),
            ("log", "write"): write,
            ("session", "send"): send,
            ("session", "send-bytes"): send,
        }

    def _waiting(self) -> dict[tuple[str, str], Callable[..., object]]:
        def wait_any(fiber: Any, ids: list[int]) -> object:
            if not ids:
                raise BadRequest("nothing to wait for")
            data = fiber.data
            ready = [i for i in ids if i not in data.waitables or data.waitables[i].ready]
            if ready:
                return ready
            pending = Pending(fiber)
            data.waiting.append((pending, ids))
            return pending

        def sleep(fiber: Any, duration: int) -> Waitable:
            waitable = Waitable(self, fiber)
            heapq.heappush(self.timers, (time.monotonic() + duration / 1e9, waitable.id, waitable))
            self.slept += duration / 1e9
            return waitable

        def receive(fiber: Any) -> Waitable:
            waitable = Waitable(self, fiber)
            if fiber.data.inbox:
                message = fiber.data.inbox.pop(0)
                waitable.value = Ok(Case("text" if isinstance(message, str) else "data", message))
            return waitable

        def id_(fiber: Any, waitable: Waitable) -> int:
            return waitable.id

        def get(fiber: Any, waitable: Waitable) -> object:
            return waitable.value

        return {
            ("futures", "wait-any"): wait_any,
            ("futures", "[method]done.id"): id_,
            ("futures", "[method]done.get"): get,
            ("clocks", "monotonic-now"): lambda f: time.monotonic_ns(),
            ("clocks", "wall-now"): lambda f: time.time_ns(),
            ("clocks", "sleep"): sleep,
            ("session", "receive"): receive,
            ("session", "[method]pending-message.id"): id_,
            ("session", "[method]pending-message.get"): get,
            ("forward", "[method]pending-output.id"): id_,
            ("forward", "[method]pending-output.get"): get,
            ("context", "[method]pending-export.id"): id_,
            ("context", "[method]pending-export.get"): get,
            ("generation", "[method]run.id"): id_,
            ("generation", "[method]pending-rest.id"): id_,
            ("generation", "[method]pending-rest.get"): get,
        }

    def _models(self) -> dict[tuple[str, str], Callable[..., object]]:
        def load(fiber: Any, name: str) -> Simple:
            if name not in ("", "letters"):
                raise NotFound(f"There is no model {name!r}; there is letters.")
            return Simple(self)

        def encode(text: str) -> list[int]:
            return [ord(c) for c in text]

        def message(fiber: Any, conversation: Conversation, role: str, content: str) -> list[int]:
            conversation.turns.append(role)
            return encode(f"{conversation.seal()}<{role}>{content};")

        def cue(fiber: Any, conversation: Conversation) -> list[int]:
            if conversation.open:
                return []
            conversation.turns.append("assistant")
            conversation.open = True
            return encode("<assistant>")

        def reply(fiber: Any, conversation: Conversation, tokens: list[int]) -> None:
            if not conversation.open:
                raise BadRequest("no turn is open")

        def rewind(fiber: Any, conversation: Conversation, turns: int) -> None:
            del conversation.turns[turns:]
            conversation.open = False

        def render(fiber: Any, model: Simple, messages: str, tools: str | None, cue: bool) -> list[int]:
            turns = "".join(f"<{m['role']}>{m['content']};" for m in json.loads(messages))
            return encode(turns + ("<assistant>" if cue else ""))

        text = "".join
        return {
            ("model", "[static]model.load"): load,
            ("model", "[method]model.name"): lambda f, m: "letters",
            ("model", "[method]model.max-context"): lambda f, m: 1024,
            ("model", "[method]model.page-size"): lambda f, m: 16,
            ("model", "[method]model.vocab-size"): lambda f, m: 256,
            ("model", "[method]model.stop-ids"): lambda f, m: [STOP],
            ("model", "[method]model.eos-ids"): lambda f, m: [STOP],
            ("model", "[method]model.tokenizer"): lambda f, m: Simple(self),
            ("model", "[method]tokenizer.encode"): lambda f, t, s: encode(s),
            ("model", "[method]tokenizer.decode"): lambda f, t, ids, skip: text(map(chr, ids)),
            ("model", "[method]tokenizer.special-tokens"): lambda f, t: [(STOP, "<stop>")],
            ("model", "[method]tokenizer.vocabulary"): lambda f, t: VOCABULARY,
            ("model", "[method]tokenizer.detokenizer"): lambda f, t: Simple(self),
            ("model", "[method]detokenizer.feed"): lambda f, d, ids: text(map(chr, ids)),
            ("model", "[method]detokenizer.finish"): lambda f, d: "",
            ("chat", "render"): render,
            ("chat", "[constructor]conversation"): lambda f, m: Conversation(self, []),
            ("chat", "[method]conversation.message"): message,
            ("chat", "[method]conversation.cue"): cue,
            ("chat", "[method]conversation.reply"): reply,
            ("chat", "[method]conversation.seal"): lambda f, c: encode(c.seal()),
            ("chat", "[method]conversation.turns"): lambda f, c: len(c.turns),
            ("chat", "[method]conversation.rewind"): rewind,
            ("chat", "[method]conversation.fork"): lambda f, c: Conversation(self, list(c.turns), c.open),
        }

    def _contexts(self) -> dict[tuple[str, str], Callable[..., object]]:
        def append(fiber: Any, context: Context, tokens: list[int]) -> None:
            context.tokens += tokens

        def truncate(fiber: Any, context: Context, length: int) -> None:
            if length > len(context.tokens):
                raise BadRequest("there are fewer tokens")
            del context.tokens[length:]

        def flush(fiber: Any, context: Context) -> Waitable:
            waitable = Waitable(self, fiber)
            waitable.value = Ok()
            return waitable

        def execute(fiber: Any, context: Context, pass_: Any) -> Waitable:
            context.tokens += pass_.tokens
            rows = pass_.tokens or context.tokens[-1:]
            probes = [probed(self, probe.kind) for probe in pass_.probes]
            drawn = [[rows[row] + 1 for row in draw.rows] for draw in pass_.draws]
            return answered(fiber, SimpleNamespace(tokens=drawn, probes=probes, cached_tokens=0))

        def compute(fiber: Any, context: Context, pass_: Any) -> object:
            output = execute(fiber, context, pass_)

            def take() -> object:
                output.close()
                return output.value

            return self.taken(fiber, output, take)

        def verify(fiber: Any, context: Context, guesses: Any) -> Waitable:
            right: list[int] = []
            at = -1
            for i, (token, parent) in enumerate(zip(guesses.tokens, guesses.parents, strict=True)):
                if parent == at and token == context.tokens[-1] + 1 + len(right):
                    right.append(token)
                    at = i
            context.tokens += right
            return answered(
                fiber, SimpleNamespace(tokens=[[*right, context.tokens[-1] + 1]], probes=[], cached_tokens=0)
            )

        def answered(fiber: Any, value: object) -> Waitable:
            waitable = Waitable(self, fiber)
            heapq.heappush(self.timers, (time.monotonic(), waitable.id, waitable))
            waitable.answer = lambda _: Waitable.answer(waitable, Ok(value))  # type: ignore[method-assign]
            return waitable

        def pause(run: Run, paused: bool) -> None:
            run.paused = paused

        stats = SimpleNamespace(cached_tokens=1, drafted=2, accepted=3)
        return {
            ("context", "[static]context.create"): lambda f, m: Context(self, []),
            ("context", "[static]context.open"): lambda f, m, name: None,
            ("context", "[static]context.take"): lambda f, m, name: None,
            ("context", "[static]context.delete"): lambda f, m, name: False,
            ("context", "[method]context.save"): lambda f, c, name: None,
            ("context", "[method]context.fork"): lambda f, c: Context(self, list(c.tokens)),
            ("context", "[method]context.append"): append,
            ("context", "[method]context.truncate"): truncate,
            ("context", "[method]context.flush"): flush,
            ("context", "[method]context.tokens"): lambda f, c: c.tokens,
            ("context", "[method]context.length"): lambda f, c: len(c.tokens),
            ("generation", "[static]run.open"): lambda f, c, spec: Run(self, f, c, spec),
            ("generation", "[method]run.next"): lambda f, run: run.take(),
            ("generation", "[method]run.close"): lambda f, run: None,
            ("generation", "[method]run.pause"): lambda f, run: pause(run, True),
            ("generation", "[method]run.resume"): lambda f, run: pause(run, False),
            ("generation", "[method]run.stats"): lambda f, run: stats if run.finish is not None else None,
            ("generation", "[method]run.take"): lambda f, run: self.taken(f, run, run.take),
            ("generation", "[method]run.drain"): Rest,
            ("forward", "execute"): execute,
            ("forward", "compute"): compute,
            ("forward", "verify"): verify,
            **{("logits", name): function for name, function in logits.FUNCTIONS.items()},
            ("grammar", "[static]grammar.compile"): lambda f, m, source: Grammar(self, source.text),
            ("grammar", "[method]grammar.matcher"): lambda f, g: g.fork(),
            ("grammar", "[method]matcher.accept"): lambda f, g, tokens: g.accept(tokens),
            ("grammar", "[method]matcher.mask"): lambda f, g: g.mask(),
            ("grammar", "[method]matcher.complete"): lambda f, g: g.done == len(g.text),
            ("grammar", "[method]matcher.terminated"): lambda f, g: g.done == len(g.text),
            ("grammar", "[method]matcher.forced"): lambda f, g: [ord(letter) for letter in g.text[g.done :]],
            ("grammar", "[method]matcher.rollback"): lambda f, g, tokens: g.move(g.done - tokens),
            ("grammar", "[method]matcher.reset"): lambda f, g: g.move(0),
            ("grammar", "[method]matcher.fork"): lambda f, g: g.fork(),
            ("logits", "[static]logits.from-bytes"): lambda f, data: Row(self, Logits.of_bytes(b64decode(data))),
            ("logits", "[method]logits.fork"): lambda f, row: row.fork(),
            ("logits", "[method]logits.draw"): lambda f, row: row.row.sample(0.5),
        }


def _refuse(fiber: Any, *arguments: object) -> object:
    raise Unsupported("the scripted host has no such function")
