"""A tour of the world: the same in every language, with the same answer."""

import asyncio
import sys

from inferlet import (
    Context,
    Distribution,
    Logits,
    LogitsRow,
    LogProbs,
    Model,
    PieError,
    Resident,
    Sampler,
    adapters,
    children,
    files,
    http,
    messaging,
    runtime,
    scheduling,
    session,
)
from wit_world.imports import chat, clocks, filesystem, log, random


async def main(word: str) -> dict:
    model = Model.load()
    return {
        "runtime": surroundings(word),
        "session": await talk(),
        "model": tokens(model),
        "chat": turns(model),
        "context": await contexts(model),
        "streams": await streams(),
        "sent": await sent(),
        "closed": await closed(),
        "pass": await passes(),
        "sharing": await sharing(model),
        "outside": await outside(),
        "errors": failures(model, await refused()),
    }


def surroundings(word: str) -> list:
    before = clocks.monotonic_now()
    print(f"the word is {word}")
    print("oh", file=sys.stderr)
    log.write(log.Level.INFO, "on tour")
    names = [
        runtime.version() != "",
        runtime.username(),
        runtime.tenant(),
        runtime.instance_id() != "",
        runtime.models(),
    ]
    times = [clocks.monotonic_now() >= before, clocks.wall_now() > 0, len(random.get_bytes(16))]
    return [names, times, runtime.arguments()["word"]]


async def talk() -> list:
    session.send("ready")
    session.send_bytes(bytes(range(256)))
    text = await session.receive()
    data = await session.receive()
    await asyncio.sleep(0.002)
    return [text, list(data)]


def tokens(model: Model) -> list:
    tokenizer = model.tokenizer()
    ids = tokenizer.encode("h\u00e9llo<|end|>")
    stream = tokenizer.detokenizer()
    pieces = [stream.feed([id_]) for id_ in ids[:2]] + [stream.finish()]
    facts = [model.name, model.max_context, model.page_size, model.vocab_size, model.stop_ids, model.eos_ids]
    special, _ = tokenizer.special_tokens()
    return [facts, ids, tokenizer.decode(ids), tokenizer.decode(ids, skip_special=True), sorted(special), pieces]


def turns(model: Model) -> list:
    whole = chat.render(model.handle, '[{"role": "user", "content": "a"}]', None, True)
    talk = chat.Conversation(model.handle)
    steps = [talk.message("system", "s"), talk.message("user", "u"), talk.cue()]
    talk.reply([1, 2])
    steps.append(talk.seal())
    fork = talk.fork()
    talk.rewind(1)
    return [whole, steps, talk.turns(), fork.turns()]


async def contexts(model: Model) -> list:
    context = Context(model).append(range(40))
    fork = context.fork()
    fork.truncate(35)
    await context.flush()
    context.save("tour")
    opened = Context.open(model, "tour")
    found = [len(opened.tokens), Context.prefetch(model, "tour"), Context.prefetch(model, "nothing")]
    taken = Context.take(model, "tour")
    found += [len(taken.tokens), Context.open(model, "tour") is None, Context.delete(model, "tour")]
    await context.pin("kept", 1.0)
    Context.unpin(model, "kept")
    taken.reserve_pages(2)
    await taken.commit_pages(1)
    taken.release_pages(1)
    pages = [taken.pages.committed, taken.pages.working, taken.pages.room]
    await opened.drop_tokens(4, 20)
    context.set_adapters([])
    return [fork.tokens, found, pages, opened.seq_len, context.handle.model().name()]


async def streams() -> list:
    base = Context().append(range(10, 30))

    async def one(count: int) -> list:
        generator = base.fork().generate(Sampler.argmax(), max_tokens=count, stop=[])
        return [await generator.tokens(), generator.finish_reason]

    return await asyncio.gather(*(one(count) for count in (3, 5)))


async def sent() -> list:
    generator = Context().append(range(10, 30)).generate(Sampler.argmax(), max_tokens=4, stop=[])
    return [await generator.send("piece"), generator.finish_reason]


async def closed() -> list[bool]:
    """Iterations that are closed while somebody waits for what comes next end."""
    ended = []
    for each in (Context().append(range(10, 30)).generate(stop=[]), messaging.subscribe("silence")):
        waiting = asyncio.ensure_future(anext(each, True))
        await asyncio.sleep(0)
        each.close()
        ended += [await waiting, await anext(each, True)]
    return ended


async def passes() -> list:
    context = Context().append([1, 2, 3])
    forward = context.forward().input([4, 5])
    drawn = forward.sample([0, 1], Sampler.argmax())
    likely = forward.probe(1, Distribution(k=2))
    raw = forward.probe(0, Logits())
    resident = forward.probe(1, Resident())
    logs = forward.probe(0, LogProbs([7, 8]))
    output = await forward.execute()
    ids, chances = output.value(likely)
    rounded = [round(chance, 4) for chance in chances]
    found = [edited(output.value(resident)), len(output.value(logs))]
    return [output.tokens_at(drawn), ids, rounded, len(output.value(raw)), *found, context.tokens]


def edited(row: LogitsRow) -> list:
    """A sampler of one's own: the most probable token is forbidden, and of two others one is made certain."""
    first = row.argmax()
    other = row.fork().bias({first: float("-inf")})
    second = other.argmax()
    other.allow([17, 18]).bias({18: 1000.0})
    return [first, second != first, other.sample(0.5), [id_ for id_, _ in row.topk(1)], len(row)]


async def sharing(model: Model) -> list:
    context = Context(model).append(range(20))
    await context.flush()
    context.bid(2.0)
    with context.idle():
        await context.suspend()
    found = [context.rent() >= 0, abs(context.balance()) >= 0, scheduling.latency(model) >= 0]
    await scheduling.when_pressure("high", model=model)
    found += [scheduling.pressure(model).level, len(adapters.available(model))]
    await context.flush()
    return [found, [receipt.restored for receipt in context.receipts()]]


async def outside() -> list:
    files.make_folder("/scratch/a")
    files.write("/scratch/a/b", bytes([0, 255, 7, 9]))
    files.append("/scratch/a/b", bytes([1]))
    read = list(files.read("/scratch/a/b", 1, 100))
    files.rename("/scratch/a/b", "/scratch/c")
    entry = filesystem.stat("/scratch/c")
    files.remove("/scratch/a", recursive=True)
    left = [each.name for each in files.list("/scratch")]
    with messaging.subscribe("news") as news:
        await messaging.broadcast("news", "hear")
        heard = await anext(news)
        await messaging.push("jobs", "work")
        job = await messaging.pull("jobs")
        job.acknowledge()
        return [read, ["c", entry.kind.name.lower(), entry.size], left, heard, news.lost, [job.text, job.redeliveries]]


async def refused() -> list[str]:
    codes = []
    for body in (None, [b"streamed"]):
        try:
            await http.post("http://a.example", body=body)
        except PieError as exc:
            codes.append(exc.code)
    return codes


def failures(model: Model, refused: list[str]) -> list:
    def code(action) -> str:
        try:
            action()
        except PieError as exc:
            return exc.code
        return "none"

    return [
        code(lambda: Model.load("nothing")),
        *refused,
        code(lambda: children.launch("nothing")),
        code(lambda: Context(model).append([1 << 30])),
    ]
