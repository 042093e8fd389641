/** `console`, as events of the process. */

import { stderr, stdout } from "pie:inferlet/log@0.1.0";

function line(values: unknown[]): string {
  return values.map(shown).join(" ") + "\n";
}

function shown(value: unknown): string {
  if (typeof value === "string") return value;
  if (value instanceof Error) return `${value.name}: ${value.message}`;
  if (typeof value !== "object" || value === null) return String(value);
  try {
    return JSON.stringify(value);
  } catch {
    return String(value);
  }
}

export function installConsole(): void {
  const out = (...values: unknown[]) => stdout(line(values));
  const err = (...values: unknown[]) => stderr(line(values));
  globalThis.console = { log: out, info: out, debug: out, warn: err, error: err };
}
