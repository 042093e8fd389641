/** Explicit passes of the model, for programs that decide each token themselves. */

import { type AttentionMask, type Draw, execute, type Output as RawOutput, type Probe } from "pie:inferlet/forward@0.1.0";
import type { Distribution, ProbeKind, ProbeOutput } from "pie:inferlet/generation@0.1.0";

import type { Context } from "./context";
import { call } from "./errors";
import { resultOnce } from "./reactor";
import { sampler, type SamplerOptions } from "./sampler";

/** One pass, built up and then executed once. Input tokens join the context; drawn tokens do not. */
export class Forward {
  private readonly tokens: number[] = [];
  private positions: number[] = [];
  private mask: AttentionMask = { tag: "causal" };
  private readonly draws: Draw[] = [];
  private readonly probes: Probe[] = [];

  constructor(private readonly context: Context) {}

  /** Add input tokens; each is one row. Without any, the context's last token is row 0. */
  input(tokens: number[]): this {
    this.tokens.push(...tokens);
    return this;
  }

  /** Positions of all input tokens. */
  at(positions: number[]): this {
    this.positions = positions;
    return this;
  }

  /** What the rows see. */
  attend(mask: AttentionMask): this {
    this.mask = mask;
    return this;
  }

  /** Draw a token at each of these rows; the index of the draws in the output. */
  sample(rows: number[], options: SamplerOptions = {}, seed?: number): number {
    return this.draws.push({ rows, sampler: sampler(options), seed: seed ?? null, start: null, stopIds: [] }) - 1;
  }

  /** The most probable tokens of a row (k = 0: all); the index of the probe in the output. */
  distribution(row: number, options: { temperature?: number; k?: number } = {}): number {
    const val = { temperature: options.temperature ?? 1, k: options.k ?? 0 };
    return this.probe(row, { tag: "distribution", val });
  }

  /** The raw logits of a row; the index of the probe in the output. */
  logits(row: number): number {
    return this.probe(row, { tag: "logits" });
  }

  /** Anything that can be asked of a row; the index of the probe in the output. */
  probe(row: number, kind: ProbeKind): number {
    return this.probes.push({ row, kind }) - 1;
  }

  /** Run the pass, batched with everyone else's. */
  async execute(): Promise<Output> {
    const { tokens, positions, mask, draws, probes } = this;
    const pending = call(() => execute(this.context.raw, { tokens, positions, mask, draws, probes }));
    this.context.wrote(tokens);
    return new Output(await resultOnce<RawOutput>(pending));
  }
}

/** What each kind of probe answers. */
type Answers = { [Output in ProbeOutput as Output["tag"]]: Output["val"] };

/** What a pass yielded, by the indices that `sample`, `distribution` and `logits` returned. */
export class Output {
  constructor(readonly raw: RawOutput) {}

  /** Drawn tokens, one for each row. */
  tokens(draw: number): number[] {
    return this.raw.tokens[draw] ?? [];
  }

  /** Ids and probabilities, most probable first. */
  distribution(probe: number): Distribution {
    return this.answer(probe, "distribution");
  }

  /** Base64 of little-endian float32, one for each id of the vocabulary. */
  logits(probe: number): string {
    return this.answer(probe, "logits");
  }

  /** The answer to a probe of this kind. */
  answer<Tag extends keyof Answers>(probe: number, tag: Tag): Answers[Tag] {
    const output = this.raw.probes[probe];
    if (output?.tag !== tag) throw new TypeError(`probe ${probe} answered ${output?.tag ?? "nothing"}, not ${tag}`);
    return (output as unknown as { val: Answers[Tag] }).val;
  }
}
