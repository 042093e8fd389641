/** Contexts: tokens with their KV cache. */

import { Context as RawContext } from "pie:inferlet/context@0.1.0";

import { call, PieError } from "./errors";
import { Forward } from "./forward";
import { type GenerateOptions, Generator } from "./generation";
import { Model } from "./model";
import { dispose, resultOnce } from "./reactor";
import { Turns } from "./turns";

/**
 * A growing list of tokens. Turns and tokens can be chained: `ctx.system(...).user(...)`.
 *
 * Appending, forking and truncating do not wait for the engine; an error of theirs is thrown by the next call that does.
 * Its memory is freed by `release()`, at the end of a `using` block, or when the program ends: not by the collector.
 */
export class Context {
  private turns: Turns | undefined;
  private handle: RawContext | undefined;

  private constructor(
    readonly model: Model,
    handle: RawContext,
  ) {
    this.handle = handle;
  }

  /** An empty context of the model, or of the default one. */
  static create(model: Model = Model.load()): Context {
    return new Context(model, call(() => RawContext.create(model.raw)));
  }

  /** A fork of a saved context; null when there is none of that name. */
  static open(name: string, model: Model = Model.load()): Context | null {
    const handle = call(() => RawContext.open(model.raw, name));
    return handle ? new Context(model, handle) : null;
  }

  /** Like `open`, and the name is gone. */
  static take(name: string, model: Model = Model.load()): Context | null {
    const handle = call(() => RawContext.take(model.raw, name));
    return handle ? new Context(model, handle) : null;
  }

  /** Forget a saved context; false when there was none. */
  static delete(name: string, model: Model = Model.load()): boolean {
    return call(() => RawContext.delete(model.raw, name));
  }

  /** The host's context. Throws PieError `closed` after `release`. */
  get raw(): RawContext {
    if (this.handle === undefined) {
      throw new PieError({ code: "closed", message: "This context was released.", retryable: false });
    }
    return this.handle;
  }

  /** Save under a name of this user, replacing an older one. */
  save(name: string): void {
    call(() => this.raw.save(name));
  }

  get length(): number {
    return this.raw.length();
  }

  get tokens(): number[] {
    return this.raw.tokens();
  }

  /** All tokens as text, special ones included. */
  get text(): string {
    return this.model.tokenizer.decode(this.tokens);
  }

  system(content: string): this {
    return this.message("system", content);
  }

  user(content: string): this {
    return this.message("user", content);
  }

  assistant(content: string): this {
    return this.message("assistant", content);
  }

  /** A complete turn of any role that the model's chat template knows. */
  message(role: string, content: string): this {
    return this.add(this.chat().message(role, content));
  }

  /** Open the assistant's turn; `generate` does it by itself after turns. */
  cue(): this {
    return this.add(this.chat().cue());
  }

  /** Close the assistant's turn; the next turn does it by itself. */
  seal(): this {
    return this.add(this.chat().seal());
  }

  /** Tokens as they are. */
  append(tokens: number[]): this {
    this.add(tokens);
    this.turns?.wrote(tokens);
    return this;
  }

  /** Text as it is. */
  appendText(text: string): this {
    return this.append(this.model.tokenizer.encode(text));
  }

  /** Remove the last `count` tokens. Turns of a chat are forgotten: what follows begins a new conversation. */
  truncate(count: number): void {
    call(() => this.raw.truncate(Math.max(0, this.length - count)));
    this.turns?.dispose();
    this.turns = undefined;
  }

  /** A second context with the same tokens, sharing memory until they differ. */
  fork(): Context {
    const fork = new Context(this.model, call(() => this.raw.fork()));
    fork.turns = this.turns?.fork();
    return fork;
  }

  /** Resolves when the KV cache of what was appended is computed. */
  flush(): Promise<void> {
    return resultOnce<void>(this.raw.flush());
  }

  /** Decode from here: `for await (const step of ctx.generate())`, or `await ctx.generate().text()`. */
  generate(options: GenerateOptions = {}): Generator {
    if (this.turns?.wantsCue) this.cue();
    return new Generator(this, options);
  }

  /** One explicit pass of the model. */
  forward(): Forward {
    return new Forward(this);
  }

  /** Tokens that a generation or a pass added. */
  wrote(tokens: number[]): void {
    this.turns?.wrote(tokens);
  }

  /** Free its memory now. May be called again. */
  release(): void {
    this.turns?.dispose();
    if (this.handle !== undefined) dispose(this.handle);
    this.handle = this.turns = undefined;
  }

  [Symbol.dispose](): void {
    this.release();
  }

  private chat(): Turns {
    this.turns ??= Turns.start(this.model);
    return this.turns;
  }

  private add(tokens: number[]): this {
    if (tokens.length > 0) call(() => this.raw.append(tokens));
    return this;
  }
}
