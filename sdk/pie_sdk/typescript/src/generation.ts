/** Streams of decoded tokens. */

import { type Finish, type GrammarSource, type Rest, Run, type SentAs, type Speculation } from "pie:inferlet/generation@0.1.0";

import type { Context } from "./context";
import { call, unwrap } from "./errors";
import { dispose, isAlone, ready, resultOnce } from "./reactor";
import { sampler, type SamplerOptions } from "./sampler";
import { send } from "./session";

export interface GenerateOptions {
  sampler?: SamplerOptions;
  /** Without it: until a stop id, or until the context is full. */
  maxTokens?: number;
  /** Ids that end it, instead of the model's own. */
  stop?: number[];
  /** Strings that end it; they are not part of the text. */
  stopStrings?: string[];
  /** What the text must spell. */
  grammar?: GrammarSource;
  /** Guesses ahead: they change the speed, never the tokens. */
  speculation?: Speculation;
  /** The draws repeat for a given seed, up to 2^53. */
  seed?: number;
  /** How far the engine may run ahead; 1 is lockstep. */
  window?: number;
}

export interface Step {
  tokens: number[];
  text: string;
  /** Set on the last step. */
  finish: Finish | null;
}

/**
 * An asynchronous iterator of steps. The engine decodes ahead of it; leaving the loop early costs nothing: the context then
 * ends at the last step that was taken.
 */
export class Generator implements AsyncIterableIterator<Step> {
  /** Why it ended, once it has. */
  finish: Finish | null = null;
  private run: Run | undefined;
  private closed = false;

  constructor(
    private readonly context: Context,
    private readonly options: GenerateOptions,
  ) {}

  [Symbol.asyncIterator](): this {
    return this;
  }

  async next(): Promise<IteratorResult<Step>> {
    if (this.closed) return { done: true, value: undefined };
    const run = (this.run ??= this.open());
    let got = run.next();
    while (got === null || got === undefined) {
      await ready(run);
      if (this.closed) return { done: true, value: undefined };
      got = run.next();
    }
    const { tokens, text, finish } = unwrap<Step>(got);
    this.context.wrote(tokens);
    this.finish = finish ?? null;
    if (this.finish !== null) {
      this.close();
      if (tokens.length === 0 && text === "") return { done: true, value: undefined };
    }
    return { done: false, value: { tokens, text, finish: this.finish } };
  }

  /** Leaving a `for await` loop ends up here. */
  async return(): Promise<IteratorResult<Step>> {
    this.close();
    return { done: true, value: undefined };
  }

  /** Stop here: who waits for a step is told that there are no more. What the engine computed beyond the last step taken is discarded. */
  close(): void {
    this.closed = true;
    if (this.run !== undefined) dispose(this.run);
    this.run = undefined;
  }

  /** The rest, as text. */
  async text(): Promise<string> {
    return (await this.rest(null)).text;
  }

  /** The rest, as ids. */
  async tokens(): Promise<number[]> {
    return (await this.rest(null)).tokens;
  }

  /** The rest, as text, of which the client gets each piece as it is decoded (with a `field`, as `{field: text}`), while the program sleeps. */
  async send(field?: string): Promise<string> {
    return (await this.rest(field === undefined ? { tag: "text" } : { tag: "field", val: field })).text;
  }

  private async rest(sent: SentAs | null): Promise<{ tokens: number[]; text: string }> {
    await Promise.resolve(); // whoever called has run on by now
    // Others might close it, or use the context.
    if (this.closed || !isAlone()) return this.restBySteps(sent);
    const { context } = this;
    const run = (this.run ??= this.open());
    const length = context.length;
    let rest: Rest;
    try {
      rest = await resultOnce<Rest>(call(() => run.drain(sent)));
    } catch (error) {
      try {
        context.wrote(context.tokens.slice(length));
      } catch {
        // Of a context that is dead nothing can be asked.
      }
      throw error;
    }
    context.wrote(rest.tokens);
    this.finish = rest.finish;
    this.close();
    return rest;
  }

  private async restBySteps(sent: SentAs | null): Promise<{ tokens: number[]; text: string }> {
    const all: Step[] = [];
    for await (const step of this) {
      all.push(step);
      if (sent !== null && step.text !== "") send(sent.tag === "field" ? { [sent.val]: step.text } : step.text);
    }
    return { tokens: all.flatMap((step) => step.tokens), text: all.map((step) => step.text).join("") };
  }

  private open(): Run {
    const { options } = this;
    const spec = {
      sampler: sampler(options.sampler),
      seed: options.seed ?? null,
      stopIds: options.stop ?? this.context.model.stopIds,
      stopStrings: options.stopStrings ?? [],
      grammar: options.grammar ?? null,
      speculation: options.speculation ?? null,
      probes: [],
      maxTokens: options.maxTokens ?? null,
      window: options.window ?? null,
      text: true,
    };
    return call(() => Run.open(this.context.raw, spec));
  }
}
