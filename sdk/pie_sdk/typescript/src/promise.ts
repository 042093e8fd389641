/**
 * Promises whose jobs run when the program says so.
 *
 * A component's export is one synchronous call: the engine's own job queue would only run once it has returned, yet waiting
 * for the host happens inside. So this class replaces the global Promise, and async functions are compiled to it.
 */

type Job = () => void;
type Settle<T> = (value: T) => void;

const jobs: Job[] = [];
let head = 0;

/** Run jobs until none is left. */
export function drainJobs(): void {
  while (head < jobs.length) {
    const job = jobs[head++] as Job;
    if (head === 1024) {
      jobs.splice(0, head);
      head = 0;
    }
    job();
  }
  jobs.length = head = 0;
}

/** Whether something could run. */
export function hasJobs(): boolean {
  return head < jobs.length;
}

export function enqueueJob(job: Job): void {
  jobs.push(job);
}

/** Promises that were rejected while nobody listened, until somebody does. */
const unheard = new Set<QueuedPromise<unknown>>();

/** The reasons of rejections that nobody handled. */
export function unhandledRejections(): unknown[] {
  return [...unheard].map((promise) => promise.reason);
}

const PENDING = 0;
const FULFILLED = 1;
const REJECTED = 2;

export class QueuedPromise<T> {
  private state = PENDING;
  private value: any = undefined;
  private reactions: Job[] = [];

  constructor(executor: (resolve: (value: T | PromiseLike<T>) => void, reject: Settle<unknown>) => void) {
    const { resolve, reject } = this.settlers();
    try {
      executor(resolve, reject);
    } catch (error) {
      reject(error);
    }
  }

  get reason(): unknown {
    return this.value;
  }

  get [Symbol.toStringTag](): string {
    return "Promise";
  }

  /** Two functions of which only the first call of either counts. */
  private settlers() {
    let settled = false;
    const once = (settle: Settle<any>) => (value: any) => {
      if (!settled) {
        settled = true;
        settle(value);
      }
    };
    return { resolve: once((value) => this.resolveWith(value)), reject: once((error) => this.settle(REJECTED, error)) };
  }

  private resolveWith(value: any): void {
    if (value === this) {
      this.settle(REJECTED, new TypeError("a promise cannot resolve to itself"));
      return;
    }
    if (value === null || (typeof value !== "object" && typeof value !== "function")) {
      this.settle(FULFILLED, value);
      return;
    }
    let then: unknown;
    try {
      then = value.then;
    } catch (error) {
      this.settle(REJECTED, error);
      return;
    }
    if (typeof then !== "function") {
      this.settle(FULFILLED, value);
      return;
    }
    const { resolve, reject } = this.settlers();
    enqueueJob(() => {
      try {
        then.call(value, resolve, reject);
      } catch (error) {
        reject(error);
      }
    });
  }

  private settle(state: number, value: unknown): void {
    this.state = state;
    this.value = value;
    if (state === REJECTED && this.reactions.length === 0) unheard.add(this as QueuedPromise<unknown>);
    for (const reaction of this.reactions) enqueueJob(reaction);
    this.reactions = [];
  }

  then<A = T, B = never>(
    fulfilled?: ((value: T) => A | PromiseLike<A>) | null,
    rejected?: ((reason: any) => B | PromiseLike<B>) | null,
  ): QueuedPromise<A | B> {
    return new QueuedPromise<A | B>((resolve, reject) => {
      const react = () => {
        const handler: any = this.state === FULFILLED ? fulfilled : rejected;
        if (typeof handler !== "function") {
          if (this.state === FULFILLED) resolve(this.value);
          else reject(this.value);
          return;
        }
        try {
          resolve(handler(this.value));
        } catch (error) {
          reject(error);
        }
      };
      if (this.state === PENDING) {
        this.reactions.push(react);
      } else {
        unheard.delete(this as QueuedPromise<unknown>);
        enqueueJob(react);
      }
    });
  }

  catch<B = never>(rejected?: ((reason: any) => B | PromiseLike<B>) | null): QueuedPromise<T | B> {
    return this.then(undefined, rejected);
  }

  finally(action?: (() => void) | null): QueuedPromise<T> {
    if (typeof action !== "function") return this.then();
    return this.then(
      (value) => QueuedPromise.resolve(action()).then(() => value),
      (error) =>
        QueuedPromise.resolve(action()).then(() => {
          throw error;
        }),
    );
  }

  static resolve<T>(value?: T | PromiseLike<T>): QueuedPromise<T> {
    return value instanceof QueuedPromise ? value : new QueuedPromise<T>((resolve) => resolve(value as T));
  }

  static reject(reason?: unknown): QueuedPromise<never> {
    return new QueuedPromise<never>((_, reject) => reject(reason));
  }

  static withResolvers<T>() {
    let resolve!: (value: T | PromiseLike<T>) => void;
    let reject!: Settle<unknown>;
    const promise = new QueuedPromise<T>((a, b) => {
      resolve = a;
      reject = b;
    });
    return { promise, resolve, reject };
  }

  static try<T>(action: (...args: any[]) => T | PromiseLike<T>, ...args: unknown[]): QueuedPromise<T> {
    return new QueuedPromise<T>((resolve) => resolve(action(...args)));
  }

  static all<T>(values: Iterable<T | PromiseLike<T>>): QueuedPromise<T[]> {
    return new QueuedPromise<T[]>((resolve, reject) => {
      const results: T[] = [];
      const count = each(values, (promise, index, done) =>
        promise.then((value) => {
          results[index] = value;
          if (done()) resolve(results);
        }, reject),
      );
      if (count === 0) resolve(results);
    });
  }

  static allSettled<T>(values: Iterable<T | PromiseLike<T>>): QueuedPromise<PromiseSettledResult<T>[]> {
    const settled = [...values].map((value) =>
      QueuedPromise.resolve(value).then(
        (value): PromiseSettledResult<T> => ({ status: "fulfilled", value }),
        (reason): PromiseSettledResult<T> => ({ status: "rejected", reason }),
      ),
    );
    return QueuedPromise.all(settled);
  }

  static any<T>(values: Iterable<T | PromiseLike<T>>): QueuedPromise<T> {
    return new QueuedPromise<T>((resolve, reject) => {
      const errors: unknown[] = [];
      const fail = () => reject(new AggregateError(errors, "every promise was rejected"));
      const count = each(values, (promise, index, done) =>
        promise.then(resolve, (error) => {
          errors[index] = error;
          if (done()) fail();
        }),
      );
      if (count === 0) fail();
    });
  }

  static race<T>(values: Iterable<T | PromiseLike<T>>): QueuedPromise<T> {
    return new QueuedPromise<T>((resolve, reject) => {
      for (const value of values) QueuedPromise.resolve(value).then(resolve, reject);
    });
  }
}

/** Visit each value as a promise; `done()` is true for the last of them to call it. */
function each<T>(
  values: Iterable<T | PromiseLike<T>>,
  visit: (promise: QueuedPromise<T>, index: number, done: () => boolean) => void,
): number {
  const all = [...values];
  let left = all.length;
  all.forEach((value, index) => visit(QueuedPromise.resolve(value), index, () => --left === 0));
  return all.length;
}

globalThis.Promise = QueuedPromise as unknown as PromiseConstructor;
globalThis.queueMicrotask = enqueueJob;
