/**
 * What inferlets are written with in TypeScript.
 *
 * ```ts
 * import { Context, session } from "inferlet";
 *
 * export async function main(input: { prompt: string }) {
 *   using ctx = Context.create().user(input.prompt);
 *   for await (const step of ctx.generate({ maxTokens: 64 })) session.send(step.text);
 * }
 * ```
 *
 * All that the WIT world offers can be imported beside it: `import { getBytes } from "pie:inferlet/random@0.1.0"`.
 */

export { fromBase64, toBase64 } from "./base64";
export { Context } from "./context";
export { call, PieError, unwrap } from "./errors";
export { Forward, Output } from "./forward";
export { type GenerateOptions, Generator, type Step } from "./generation";
export { Model, Tokenizer } from "./model";
export { dispose, ready, result, resultOnce, sleep, type Waitable } from "./reactor";
export { greedy, type SamplerOptions } from "./sampler";
export * as messaging from "./messaging";
export * as runtime from "./runtime";
export * as session from "./session";
