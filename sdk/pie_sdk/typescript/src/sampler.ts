/** How tokens are drawn. */

export interface SamplerOptions {
  /** 0 is greedy. */
  temperature?: number;
  /** Keep the smallest set of tokens whose probability reaches this. */
  topP?: number;
  /** Keep this many of the most probable tokens; 0 keeps all. */
  topK?: number;
}

/** As the host takes it. */
export function sampler(options: SamplerOptions = {}) {
  return { temperature: options.temperature ?? 1, topP: options.topP ?? 1, topK: options.topK ?? 0 };
}

/** Always the most probable token. */
export const greedy: SamplerOptions = { temperature: 0 };
