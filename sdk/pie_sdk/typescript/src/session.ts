/** The client that launched this program. */

import { type OnFull, type PendingMessage, receive as startReceive, send as rawSend, sendBytes } from "pie:inferlet/session@0.1.0";

import { call } from "./errors";
import { resultOnce } from "./reactor";

export interface SendOptions {
  /** Drop the message instead of waiting while the client has too much unread. */
  dropWhenFull?: boolean;
}

function onFull(options: SendOptions): OnFull {
  return options.dropWhenFull ? "drop" : "wait";
}

/** Send to the client; bytes as they are, anything but a string as JSON. */
export function send(message: unknown, options: SendOptions = {}): void {
  const full = onFull(options);
  if (message instanceof Uint8Array) {
    call(() => sendBytes(message, full));
  } else {
    const text = typeof message === "string" ? message : JSON.stringify(message) ?? "null";
    call(() => rawSend(text, full));
  }
}

/** The client's next message. Throws PieError `closed` when none can come any more. */
export async function receive(): Promise<string | Uint8Array> {
  const pending: PendingMessage = startReceive();
  return (await resultOnce<{ val: string | Uint8Array }>(pending)).val;
}
