/** Messages between programs of one user. */

import * as raw from "pie:inferlet/messaging@0.1.0";

import { call, unwrap } from "./errors";
import { dispose, ready, resultOnce } from "./reactor";

/** Add to the topic's queue; resolves when it is stored. */
export function push(topic: string, message: string): Promise<void> {
  return resultOnce<void>(call(() => raw.push(topic, message)));
}

/**
 * The oldest message that nobody has. It is acknowledged by `acknowledge`, by the next pull from the topic, or when the
 * program ends without an error; otherwise somebody else gets it.
 */
export function pull(topic: string): Promise<raw.Delivery> {
  return resultOnce<raw.Delivery>(call(() => raw.pull(topic)));
}

export function acknowledge(message: raw.Delivery): void {
  call(() => raw.acknowledge(message.message));
}

/** To those who are subscribed now. */
export function broadcast(topic: string, message: string): Promise<void> {
  return resultOnce<void>(call(() => raw.broadcast(topic, message)));
}

/** From now on; iterate over it, and `close` it in the end (leaving a `for await` loop does). */
export function subscribe(topic: string): Subscription {
  return new Subscription(call(() => raw.subscribe(topic)));
}

export class Subscription implements AsyncIterableIterator<string> {
  private closed = false;

  constructor(readonly raw: raw.Subscription) {}

  /** Messages lost because they were not read in time. */
  get lost(): number {
    return this.raw.lost();
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async next(): Promise<IteratorResult<string>> {
    while (!this.closed) {
      const got = this.raw.next();
      if (got !== null && got !== undefined) return { done: false, value: unwrap<string>(got) };
      await ready(this.raw);
    }
    return { done: true, value: undefined };
  }

  async return(): Promise<IteratorResult<string>> {
    this.close();
    return { done: true, value: undefined };
  }

  /** Listen no more: who waits for a message is told that there are no more. */
  close(): void {
    if (!this.closed) dispose(this.raw);
    this.closed = true;
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
