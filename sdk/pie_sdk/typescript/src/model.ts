/** Models and their tokenizers. */

import { Model as RawModel, Tokenizer as RawTokenizer } from "pie:inferlet/model@0.1.0";

import { call } from "./errors";

/** A loaded model. */
export class Model {
  private tokenizer_: Tokenizer | undefined;

  private constructor(readonly raw: RawModel) {}

  /** By name; the default model without one. Throws PieError `not_found`. */
  static load(name = ""): Model {
    return new Model(call(() => RawModel.load(name)));
  }

  get name(): string {
    return this.raw.name();
  }

  /** Positions that a context can hold. */
  get maxContext(): number {
    return this.raw.maxContext();
  }

  /** Tokens to a page of KV cache. */
  get pageSize(): number {
    return this.raw.pageSize();
  }

  get vocabSize(): number {
    return this.raw.vocabSize();
  }

  /** What a chat generation stops at. */
  get stopIds(): number[] {
    return this.raw.stopIds();
  }

  get tokenizer(): Tokenizer {
    this.tokenizer_ ??= new Tokenizer(this.raw.tokenizer());
    return this.tokenizer_;
  }
}

/** Text to token ids and back. */
export class Tokenizer {
  constructor(readonly raw: RawTokenizer) {}

  encode(text: string): number[] {
    return call(() => this.raw.encode(text));
  }

  decode(ids: number[], options: { skipSpecial?: boolean } = {}): string {
    return call(() => this.raw.decode(ids, options.skipSpecial ?? false));
  }
}
