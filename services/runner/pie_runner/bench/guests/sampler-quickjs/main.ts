/** The sampler of the benchmark in TypeScript: `steps` tokens, drawn by the program (`custom`) or by the engine. */

import { call, Context, dispose, type Forward } from "inferlet";

export async function main(input: { steps: number; custom: boolean }) {
  using context = Context.create();
  const draw = input.custom ? drawHere : drawThere;
  let token = 1;
  for (let i = 0; i < input.steps; i++) token = await draw(context.forward().input([token]));
  return token;
}

async function drawThere(pass: Forward): Promise<number> {
  const draws = pass.sample([0], { temperature: 0.8, topP: 0.9 });
  return (await pass.execute()).tokens(draws)[0];
}

async function drawHere(pass: Forward): Promise<number> {
  const probe = pass.probe(0, { tag: "resident" });
  const row = (await pass.execute()).answer(probe, "resident");
  const token = call(() => {
    row.temperature(0.8);
    row.keepTopP(0.9);
    return row.draw();
  });
  dispose(row);
  return token;
}
