/** The component's `run`. */

import { setCause } from "pie:inferlet/runtime@0.1.0";

import { installConsole } from "./console";
import { asError, PieError } from "./errors";
import { unhandledRejections } from "./promise";
import { runToEnd } from "./reactor";

interface Program {
  main?: (input: any) => unknown;
  default?: (input: any) => unknown;
}

/** Runs the program's `main`, or its default export, with the input, JSON text; its result as JSON text. */
export function run(program: Program, text: string): string {
  installConsole();
  const main = program.main ?? program.default;
  if (typeof main !== "function") throw "The program exports no function `main`.";
  try {
    const value = runToEnd(Promise.resolve(text === "" ? null : JSON.parse(text)).then(main));
    for (const reason of unhandledRejections()) console.error("unhandled rejection:", describe(asError(reason)));
    return JSON.stringify(value) ?? "null";
  } catch (thrown) {
    const error = asError(thrown);
    if (error instanceof PieError) setCause(error.code);
    throw describe(error);
  }
}

/** The text that the client sees. */
function describe(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const stack = (error.stack ?? "").trimEnd();
  return `${error.name}: ${error.message}${stack ? `\n${stack}` : ""}`;
}
