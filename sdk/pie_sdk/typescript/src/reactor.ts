/** Awaiting the host: the only way to sleep is `futures.wait-any`. */

import { waitAny } from "pie:inferlet/futures@0.1.0";
import { sleep as startSleep } from "pie:inferlet/clocks@0.1.0";

import { unwrap } from "./errors";
import { drainJobs, hasJobs } from "./promise";

/** A resource of the host that will have something to get. */
export interface Waitable {
  id(): number;
  [Symbol.dispose]?(): void;
}

/** By the id of what they wait for: several may wait for one. */
const waiting = new Map<number, (() => void)[]>();

/** Resolves once the waitable has something to get. */
export function ready(waitable: Waitable): Promise<void> {
  return new Promise((resolve) => {
    const id = waitable.id();
    const others = waiting.get(id);
    if (others === undefined) waiting.set(id, [resolve]);
    else others.push(resolve);
  });
}

/** Whether the code that runs is all there is: nothing else could run while it sleeps, or waits for the host. */
export function isAlone(): boolean {
  return waiting.size === 0 && !hasJobs();
}

/** What a waitable gets, waiting until it is there. Throws a PieError when it is an error. */
export async function result<T>(waitable: Waitable, get: () => unknown): Promise<T> {
  for (;;) {
    const got = get();
    if (got !== null && got !== undefined) return unwrap<T>(got);
    await ready(waitable);
  }
}

/** Like `result`, and disposes of the waitable. */
export async function resultOnce<T>(waitable: Waitable & { get(): unknown }): Promise<T> {
  try {
    return await result<T>(waitable, () => waitable.get());
  } finally {
    dispose(waitable);
  }
}

/** Frees what a handle stands for; JavaScript's collector would never do it. */
export function dispose(resource: object): void {
  (resource as Partial<Disposable>)[Symbol.dispose]?.();
}

/** Resolves after at least so many milliseconds. */
export function sleep(milliseconds: number): Promise<void> {
  return resultOnce<void>(startSleep(Math.max(0, Math.round(milliseconds * 1e6))));
}

/** Runs jobs and waits for the host until the promise is settled; returns its value or throws its reason. */
export function runToEnd<T>(promise: PromiseLike<T>): T {
  let outcome: { value: T } | { error: unknown } | undefined;
  promise.then(
    (value) => (outcome = { value }),
    (error: unknown) => (outcome = { error }),
  );
  for (;;) {
    drainJobs();
    if (outcome !== undefined) {
      if ("error" in outcome) throw outcome.error;
      return outcome.value;
    }
    if (waiting.size === 0) throw new Error("deadlock: the program waits, and nothing is asked of the host");
    for (const id of waitAny([...waiting.keys()])) {
      const wakes = waiting.get(id) ?? [];
      waiting.delete(id);
      for (const wake of wakes) wake();
    }
  }
}
