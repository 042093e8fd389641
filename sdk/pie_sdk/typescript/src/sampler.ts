/** How tokens are drawn. */

/** What is left out changes nothing. The order is: mask, bias, penalties, temperature, then the filters as listed. */
export interface SamplerOptions {
  /** 0 is greedy. */
  temperature?: number;
  /** Keep this many of the most probable tokens; 0 keeps all. */
  topK?: number;
  /** Keep the smallest set of tokens whose probability reaches this. */
  topP?: number;
  /** Keep tokens with at least this part of the greatest probability. */
  minP?: number;
  /** Keep the most typical tokens whose probability reaches this. */
  typicalP?: number;
  /** Over all tokens of the context; 1 is none. The other two count generated tokens; 0 is none. */
  repetitionPenalty?: number;
  presencePenalty?: number;
  frequencyPenalty?: number;
  /** Added to the logits of these tokens. */
  bias?: [number, number][];
  /** Run lengths, alternately forbidden and allowed, or base64 of packed bits. */
  mask?: number[] | string;
  /** Stop ids are not drawn before so many tokens were. */
  minTokens?: number;
}

/** As the host takes it. */
export function sampler(options: SamplerOptions = {}) {
  return {
    temperature: options.temperature ?? 1,
    topP: options.topP ?? 1,
    topK: options.topK ?? 0,
    minP: options.minP ?? 0,
    typicalP: options.typicalP ?? 1,
    repetitionPenalty: options.repetitionPenalty ?? 1,
    presencePenalty: options.presencePenalty ?? 0,
    frequencyPenalty: options.frequencyPenalty ?? 0,
    bias: options.bias ?? [],
    mask: mask(options.mask),
    minTokens: options.minTokens ?? 0,
  };
}

function mask(allowed: number[] | string | undefined) {
  if (allowed === undefined) return null;
  if (typeof allowed === "string") return { tag: "bits" as const, val: allowed };
  return { tag: "runs" as const, val: allowed };
}

/** Always the most probable token. */
export const greedy: SamplerOptions = { temperature: 0 };
