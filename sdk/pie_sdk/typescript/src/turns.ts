/** The chat side of a context: what the model's template appends for each turn. */

import { Conversation } from "pie:inferlet/chat@0.1.0";

import { call } from "./errors";
import type { Model } from "./model";
import { dispose } from "./reactor";

export class Turns {
  /** What was appended to the open turn and the template has not been told of. */
  private reply: number[] = [];

  private constructor(
    private readonly raw: Conversation,
    private open: boolean,
    private begun: boolean,
  ) {}

  static start(model: Model): Turns {
    return new Turns(new Conversation(model.raw), false, false);
  }

  fork(): Turns {
    const fork = new Turns(this.raw.fork(), this.open, this.begun);
    fork.reply = [...this.reply];
    return fork;
  }

  /** Whether turns were made and none is open for the model. */
  get wantsCue(): boolean {
    return this.begun && !this.open;
  }

  message(role: string, content: string): number[] {
    this.tell();
    const tokens = call(() => this.raw.message(role, content));
    this.begun = true;
    this.open = false;
    return tokens;
  }

  cue(): number[] {
    this.tell();
    const tokens = call(() => this.raw.cue());
    this.begun = this.open = true;
    return tokens;
  }

  seal(): number[] {
    this.tell();
    const tokens = call(() => this.raw.seal());
    this.open = false;
    return tokens;
  }

  /** Tokens joined the context without a turn of their own. */
  wrote(tokens: number[]): void {
    if (this.open) this.reply.push(...tokens);
  }

  dispose(): void {
    dispose(this.raw);
  }

  private tell(): void {
    if (this.reply.length > 0) {
      const reply = this.reply;
      this.reply = [];
      call(() => this.raw.reply(reply));
    }
  }
}
