/** Errors of the host. */

interface Raw {
  code: string;
  message: string;
  retryable: boolean;
}

/** Why a host function did not do what was asked: `code` as in docs/protocol.md. */
export class PieError extends Error {
  readonly code: string;
  readonly retryable: boolean;

  constructor(raw: Raw) {
    super(raw.message);
    this.name = "PieError";
    this.code = raw.code;
    this.retryable = raw.retryable;
  }
}

/** The value of a result inside another type, `{tag: "ok" | "err", val}`; an error is thrown. */
export function unwrap<T>(got: unknown): T {
  const { tag, val } = got as { tag: string; val: unknown };
  if (tag === "err") throw asError(val);
  return val as T;
}

/** Calls the host; its error arrives as a PieError. */
export function call<T>(action: () => T): T {
  try {
    return action();
  } catch (error) {
    throw asError(error);
  }
}

/** What a host function threw, as a PieError; anything else as it is. */
export function asError(thrown: unknown): unknown {
  // What the host throws is a record, perhaps inside the binding's own error.
  const raw = ((thrown as { payload?: unknown } | null)?.payload ?? thrown) as Partial<Raw> | null;
  const isRecord = typeof raw === "object" && raw !== null && !(raw instanceof Error) && "retryable" in raw;
  return isRecord ? new PieError(raw as Raw) : thrown;
}
