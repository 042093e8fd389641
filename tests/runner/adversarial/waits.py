"""A program for every host function that may park, and for every kind of resource that can be waited for."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pie_runner.children import Child
from pie_runner.drains import PendingRest
from pie_runner.exports import PendingExport
from pie_runner.host import TABLE
from pie_runner.mailbox import PendingMessage
from pie_runner.messaging.mail import PendingPull
from pie_runner.messaging.subscription import Subscription
from pie_runner.outside.fetches import PendingResponse, Response
from pie_runner.outside.tools import ToolAnswer
from pie_runner.passes import PendingOutput
from pie_runner.runs import Run
from pie_runner.waitables import Completion, Waitable
from pie_runner.wasm.world import offered_world

SOURCE = """
import asyncio, base64, sys
from inferlet import (
    Context, Grammar, Model, Regex, files, http, launch, mcp, messaging, runtime, scheduling, session,
)
from wit_world.imports import (
    adapters as raw_adapters, chat as raw_chat, context as raw_context, decoders as raw_decoders, http as raw_http,
    scheduling as raw_scheduling,
)

async def main(port, half):
    model, url = Model.load().handle, f"http://127.0.0.1:{port}/"
    {setup}
    await session.receive()
    context = Context()
    context.append([1, 2, 3] * 20)
    session.send("here")
    {body}
"""


@dataclass(frozen=True)
class Case:
    """`body` waits where `held` does not answer any more; `setup` comes while all is well."""

    held: str
    body: str
    setup: str = "pass"


KINDS: dict[str, type[Waitable]] = {
    "children.child": Child,
    "context.pending-export": PendingExport,
    "forward.pending-output": PendingOutput,
    "futures.done": Completion,
    "generation.pending-rest": PendingRest,
    "generation.run": Run,
    "http.pending-response": PendingResponse,
    "http.response": Response,
    "mcp.pending-answer": ToolAnswer,
    "messaging.pending-pull": PendingPull,
    "messaging.subscription": Subscription,
    "session.pending-file": PendingMessage,
    "session.pending-message": PendingMessage,
}
_TALK = "talk = raw_chat.Conversation(model)"
_LONG = "talk.message('user', 'x' * 9000)"
_TURN = '\'{"role": "user", "content": "\' + \'x\' * 10_000 + \'"}\''
_MATCHER = "matcher = Grammar(Regex('[a-z]*')).matcher()"
_MUCH = "base64.b64encode(bytes(2_000_000)).decode()"
_FILE = "files.write('/scratch/a', b'x')"
_JOB = "await messaging.push('jobs', 'x'); message = await messaging.pull('jobs')"
_FORKS = "[context.fork().generate(max_tokens=5).text() for _ in range(20)]"

CALLS: dict[str, Case] = {
    "adapters/available": Case("list", "raw_adapters.available(model)"),
    "chat/render": Case("workers", f"raw_chat.render(model, '[' + {_TURN} + ']', None, True)"),
    "chat/conversation.message": Case("workers", _LONG, _TALK),
    "chat/conversation.turn": Case("workers", f"talk.turn({_TURN})", _TALK),
    "chat/conversation.cue": Case("workers", "talk.cue()", f"{_TALK}; {_LONG}"),
    "chat/conversation.seal": Case("workers", "talk.seal()", f"{_TALK}; {_LONG}; talk.cue()"),
    "context/context.create": Case("flood", "[Context() for _ in range(9)]"),
    "context/context.fork": Case("flood", "[context.fork() for _ in range(9)]"),
    "context/context.append": Case("flood", "[context.append([1]) for _ in range(9)]"),
    "context/context.truncate": Case("flood", "[context.truncate(59 - i) for i in range(9)]"),
    "context/context.reserve": Case("flood", "[context.handle.reserve(1 + i % 2) for i in range(9)]"),
    "context/context.release": Case("flood", "[context.handle.release(1) for _ in range(4)]"),
    "context/context.set-adapters": Case("flood", "[context.handle.set_adapters([]) for _ in range(9)]"),
    "context/context.open": Case("store", "Context.open(Model.load(), 'name')"),
    "context/context.take": Case("store", "Context.take(Model.load(), 'name')"),
    "context/context.delete": Case("store", "Context.delete(Model.load(), 'name')"),
    "context/context.prefetch": Case("store", "raw_context.Context.prefetch(model, 'name')"),
    "context/context.save": Case("store", "context.save('name')"),
    "context/context.save engine": Case("engine", "context.save('name')"),
    "context/context.import": Case("workers", "Context.from_export(Model.load(), b'x')"),
    "decoders/decoder.feed": Case(
        "workers",
        "decoder.feed([65] * 100)",
        "decoder = raw_decoders.Decoder.create(model, raw_decoders.Options(False, False, None))",
    ),
    "filesystem/read": Case("workers", "files.read('/scratch/a')", _FILE),
    "filesystem/write": Case("workers", "files.write('/scratch/a', b'x')"),
    "filesystem/append": Case("workers", "files.append('/scratch/a', b'x')", _FILE),
    "filesystem/stat": Case("workers", "files.stat('/scratch/a')", _FILE),
    "filesystem/list": Case("workers", "files.list('/scratch')", _FILE),
    "filesystem/make-folder": Case("workers", "files.make_folder('/scratch/b')", _FILE),
    "filesystem/remove": Case("workers", "files.remove('/scratch/a')", _FILE),
    "filesystem/rename": Case("workers", "files.rename('/scratch/a', '/scratch/b')", _FILE),
    "forward/compute": Case("engine", "await context.forward().input([4]).execute()"),
    "generation/run.take": Case("engine", "[step async for step in context.generate(max_tokens=5)]"),
    "grammar/grammar.compile": Case("workers", "Grammar(Regex('a+'))"),
    "grammar/matcher.accept": Case("workers", "matcher.accept([66] * 100)", _MATCHER),
    "grammar/matcher.mask": Case("workers", "matcher.mask()", f"{_MATCHER}; matcher.mask()"),
    "http/send": Case("workers", "await http.post(url, body=bytes(2_000_000))"),
    "http/begin": Case("workers", f"raw_http.begin(raw_http.Request('POST', url, [], {_MUCH}, None, 0), None)"),
    "log/stdout": Case("client", "while True: print('x' * 1_000_000)"),
    "log/stderr": Case("client", "while True: print('x' * 1_000_000, file=sys.stderr)"),
    "mcp/connect": Case("aside", "mcp.connect('house')"),
    "messaging/acknowledge": Case("store", "message.acknowledge()", _JOB),
    "messaging/subscribe": Case("store", "messaging.subscribe('news')"),
    "model/model.load": Case("late", "Model.load('other')"),
    "model/tokenizer.encode": Case("workers", "Model.load().tokenizer().encode('word ' * 10_000)"),
    "model/tokenizer.decode": Case("workers", "Model.load().tokenizer().decode([65] * 5000)"),
    "model/detokenizer.feed": Case("workers", "Model.load().tokenizer().detokenizer().feed([65] * 5000)"),
    "scheduling/balance": Case("engine", "raw_scheduling.balance(context.handle)"),
    "scheduling/latency": Case("engine", "raw_scheduling.latency(model)"),
    "scheduling/rent": Case("engine", "raw_scheduling.rent(context.handle)"),
    "session/send": Case("client", "while True: session.send('x' * 1_000_000)"),
    "session/send-bytes": Case("client", "while True: session.send_bytes(b'x' * 1_000_000)"),
    "session/send-file": Case("workers", "session.send_file('a', bytes(2_000_000))"),
    "session/send-file client": Case("client", "while True: session.send_file('a', bytes(2_000_000))"),
}
"""What is parked in, and more words where it can be parked in several ways."""

WAITS: dict[str, Case] = {
    "children.child": Case("", "await launch('other').result()"),
    "context.pending-export": Case("engine", "await context.export()"),
    "forward.pending-output": Case("engine", "await context.verify([1, 2])"),
    "forward.pending-output of many": Case(
        "engine", "await asyncio.gather(*(context.fork().forward().input([4]).execute() for _ in range(20)))"
    ),
    "futures.done sleep": Case("", "await asyncio.sleep(1e6)"),
    "futures.done flush": Case("engine", "await context.flush()"),
    "futures.done pressure": Case("engine", "await scheduling.when_pressure('high', rising=True)"),
    "futures.done suspend": Case("engine", "await context.suspend()"),
    "futures.done push": Case("store", "await messaging.push('jobs', 'x')"),
    "futures.done broadcast": Case("store", "await messaging.broadcast('news', 'x')"),
    "futures.done upload": Case("", "await http.post(url, body=(b'x' * 65536 for _ in range(200)))"),
    "generation.pending-rest": Case("engine", "await context.generate(max_tokens=5).text()"),
    "generation.run": Case("engine", f"await asyncio.gather(*{_FORKS})"),
    "http.pending-response": Case("", "await http.get(url)"),
    "http.response": Case("", "await (await http.get(f'http://127.0.0.1:{half}/')).read()"),
    "mcp.pending-answer": Case("", "await mcp.connect('house').tools()"),
    "messaging.pending-pull": Case("store", "await messaging.pull('jobs')"),
    "messaging.pending-pull of many": Case(
        "store", "await asyncio.gather(*(messaging.pull(f'jobs-{i}') for i in range(50)))"
    ),
    "messaging.subscription": Case("store", "await anext(news)", "news = messaging.subscribe('news')"),
    "session.pending-file": Case("", "await session.receive_file()"),
    "session.pending-message": Case("", "await session.receive()"),
    "session.pending-message and more": Case(
        "",
        "await asyncio.gather(session.receive(), session.receive_file(), asyncio.sleep(1e6), "
        "launch('other').result(), http.get(url), launch('third').result())",
    ),
}
"""What is waited for by `futures.wait-any`, and more words where there are several ways."""


def parking() -> set[str]:
    """Host functions that may answer later: they say so by their types."""
    found: set[str] = set()
    for (interface, name), function in TABLE.items():
        answers = str(function.__annotations__["return"])
        if re.search(r"\bPending\b", answers):
            found.add(f"{interface}/{name.rpartition(']')[2]}")
        elif answers == "object" and "<locals>" not in function.__qualname__:
            found.add(f"{interface}/{name} must say what it returns")
    return found


def waitable() -> set[str]:
    """Kinds of resources in the world that have an `id` to wait for."""
    ids = [(at, name) for at, name in offered_world() if name.startswith("[method]") and name.endswith(".id")]
    return {f"{at.rpartition('/')[2]}.{name.removeprefix('[method]').removesuffix('.id')}" for at, name in ids}
