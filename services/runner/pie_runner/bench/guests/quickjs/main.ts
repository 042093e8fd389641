/** The guest of the benchmark in TypeScript. `calls`: how often it asks the time; `waits`: how often it waits. */

import { monotonicNow } from "pie:inferlet/clocks@0.1.0";
import { waitAny } from "pie:inferlet/futures@0.1.0";

export function main(input: { calls: number; waits: number }) {
  const ids = [1];
  for (let i = 0; i < input.calls; i++) monotonicNow();
  for (let i = 0; i < input.waits; i++) waitAny(ids);
}
