/** A tour of the world: the same in every language, with the same answer. */

import { call, Context, dispose, fromBase64, greedy, messaging, toBase64, Model, PieError, resultOnce, runtime, session, sleep } from "inferlet";
import { available } from "pie:inferlet/adapters@0.1.0";
import { Conversation, render } from "pie:inferlet/chat@0.1.0";
import { launch } from "pie:inferlet/children@0.1.0";
import { monotonicNow, wallNow } from "pie:inferlet/clocks@0.1.0";
import { Context as RawContext } from "pie:inferlet/context@0.1.0";
import * as files from "pie:inferlet/filesystem@0.1.0";
import { begin as beginRequest, send as sendRequest } from "pie:inferlet/http@0.1.0";
import { write } from "pie:inferlet/log@0.1.0";
import type { Logits } from "pie:inferlet/logits@0.1.0";
import { getBytes } from "pie:inferlet/random@0.1.0";
import * as runtimeOfHost from "pie:inferlet/runtime@0.1.0";
import * as scheduling from "pie:inferlet/scheduling@0.1.0";

const range = (start: number, end: number) => Array.from({ length: end - start }, (_, i) => start + i);

export async function main(input: { word: string }) {
  const model = Model.load();
  return {
    runtime: surroundings(input.word),
    session: await talk(),
    model: tokens(model),
    chat: turns(model),
    context: await contexts(model),
    streams: await streams(),
    sent: await sent(),
    closed: await closed(),
    pass: await passes(),
    sharing: await sharing(model),
    outside: await outside(),
    errors: failures(model),
  };
}

function surroundings(word: string) {
  const before = monotonicNow();
  console.log(`the word is ${word}`);
  console.error("oh");
  write("info", "on tour");
  const names = [runtime.version() !== "", runtime.user(), runtime.tenant(), runtime.instanceId() !== "", runtime.models()];
  const times = [monotonicNow() >= before, wallNow() > 0, getBytes(16).length];
  return [names, times, JSON.parse(runtimeOfHost.arguments()).word];
}

async function talk() {
  session.send("ready");
  session.send(new Uint8Array(range(0, 256)));
  const text = await session.receive();
  const data = await session.receive();
  await sleep(2);
  return [text, Array.from(data as Uint8Array)];
}

function tokens(model: Model) {
  const { tokenizer } = model;
  const ids = tokenizer.encode("h\u00e9llo<|end|>");
  const stream = tokenizer.raw.detokenizer();
  const pieces = [...ids.slice(0, 2).map((id) => call(() => stream.feed([id]))), stream.finish()];
  const facts = [model.name, model.maxContext, model.pageSize, model.vocabSize, model.stopIds, model.raw.eosIds()];
  const special = tokenizer.raw.specialTokens().map(([id]) => id).sort((a, b) => a - b);
  dispose(stream);
  return [facts, ids, tokenizer.decode(ids), tokenizer.decode(ids, { skipSpecial: true }), special, pieces];
}

function turns(model: Model) {
  const whole = render(model.raw, '[{"role": "user", "content": "a"}]', null, true);
  using talk = new Conversation(model.raw);
  const steps = [talk.message("system", "s"), talk.message("user", "u"), talk.cue()];
  talk.reply([1, 2]);
  steps.push(talk.seal());
  using fork = talk.fork();
  talk.rewind(1);
  return [whole, steps, talk.turns(), fork.turns()];
}

async function contexts(model: Model) {
  using context = Context.create(model).append(range(0, 40));
  using fork = context.fork();
  fork.truncate(35);
  await context.flush();
  context.save("tour");
  using opened = Context.open("tour", model)!;
  const prefetch = (name: string) => RawContext.prefetch(model.raw, name);
  const found: unknown[] = [opened.tokens.length, prefetch("tour"), prefetch("nothing")];
  using taken = Context.take("tour", model)!;
  found.push(taken.tokens.length, Context.open("tour", model) === null, Context.delete("tour", model));
  await resultOnce(context.raw.pin("kept", 1e9));
  RawContext.unpin(model.raw, "kept");
  taken.raw.reserve(2);
  await resultOnce(taken.raw.commit(1));
  taken.raw.release(1);
  const { committed, working, room } = taken.raw.pages();
  await resultOnce(opened.raw.dropTokens(4, 20));
  context.raw.setAdapters([]);
  return [fork.tokens, found, [committed, working, room], opened.length, context.raw.model().name()];
}

async function streams() {
  using base = Context.create().append(range(10, 30));
  const one = async (maxTokens: number) => {
    using fork = base.fork();
    const generator = fork.generate({ sampler: greedy, maxTokens, stop: [] });
    return [await generator.tokens(), generator.finish];
  };
  return Promise.all([3, 5].map(one));
}

async function sent() {
  using context = Context.create().append(range(10, 30));
  const generator = context.generate({ sampler: greedy, maxTokens: 4, stop: [] });
  return [await generator.send("piece"), generator.finish];
}

/** Iterations that are closed while somebody waits for what comes next end. */
async function closed() {
  using context = Context.create().append(range(10, 30));
  const ended = [];
  for (const each of [context.generate({ stop: [] }), messaging.subscribe("silence")]) {
    const next = each.next();
    each.close();
    ended.push((await next).done, (await each.next()).done);
  }
  return ended;
}

async function passes() {
  using context = Context.create().append([1, 2, 3]);
  const forward = context.forward().input([4, 5]);
  const drawn = forward.sample([0, 1], greedy);
  const likely = forward.distribution(1, { k: 2 });
  const raw = forward.logits(0);
  const resident = forward.probe(1, { tag: "resident" });
  const logs = forward.probe(0, { tag: "logprobs", val: [7, 8] });
  const output = await forward.execute();
  const { ids, probabilities } = output.distribution(likely);
  const rounded = probabilities.map((chance) => Math.round(chance * 1e4) / 1e4);
  const size = (output.logits(raw).replace(/=+$/, "").length * 3) >> 2;
  const found = [edited(output.answer(resident, "resident")), output.answer(logs, "logprobs").length];
  return [output.tokens(drawn), ids, rounded, size, ...found, context.tokens];
}

/** A sampler of one's own: the most probable token is forbidden, and of two others one is made certain. */
function edited(row: Logits) {
  using other = row.fork();
  const first = row.argmax();
  other.bias([[first, -Infinity]]);
  const second = other.argmax();
  other.allow([17, 18]);
  other.bias([[18, 1000]]);
  return [first, second !== first, other.sample(0.5), row.topk(1).ids, row.vocabSize()];
}

async function sharing(model: Model) {
  using context = Context.create(model).append(range(0, 20));
  await context.flush();
  scheduling.bid(context.raw, 2);
  scheduling.idle(context.raw, true);
  await resultOnce(scheduling.suspend(context.raw));
  scheduling.idle(context.raw, false);
  const found: unknown[] = [
    scheduling.rent(context.raw) >= 0,
    Math.abs(scheduling.balance(context.raw)) >= 0,
    scheduling.latency(model.raw) >= 0,
  ];
  await resultOnce(scheduling.whenPressure(model.raw, "high", false));
  found.push(scheduling.currentPressure(model.raw).level, available(model.raw).length);
  await context.flush();
  return [found, scheduling.receipts(context.raw).map((receipt) => receipt.restored)];
}

async function outside() {
  const bytes = new Uint8Array([0, 255, 7, 9]);
  files.makeFolder("/scratch/a");
  files.write("/scratch/a/b", toBase64(bytes));
  files.append("/scratch/a/b", toBase64(new Uint8Array([1])));
  const read = Array.from(fromBase64(files.read("/scratch/a/b", 1, 100)));
  files.rename("/scratch/a/b", "/scratch/c");
  const { name, kind, size } = files.stat("/scratch/c");
  files.remove("/scratch/a", true);
  const left = files.list("/scratch").map((entry) => entry.name);

  using news = messaging.subscribe("news");
  await messaging.broadcast("news", "hear");
  const heard = await news.next();
  await messaging.push("jobs", "work");
  const job = await messaging.pull("jobs");
  messaging.acknowledge(job);
  return [read, [name, kind, size], left, heard.value, news.lost, [job.text, job.redeliveries]];
}

function failures(model: Model) {
  const code = (action: () => unknown) => {
    try {
      call(action);
    } catch (error) {
      return (error as PieError).code;
    }
    return "none";
  };
  const request = { method: "GET", url: "http://a.example", headers: [], body: null, timeout: null, redirects: 0 };
  return [
    code(() => Model.load("nothing")),
    code(() => sendRequest(request)),
    code(() => beginRequest(request, null)),
    code(() => launch({ program: "nothing", input: "{}", near: null, detached: false })),
    code(() => Context.create(model).append([2 ** 30])),
  ];
}
