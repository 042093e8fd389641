/** Bytes as the host passes them: base64 text, standard alphabet, with padding. */

const ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

export function toBase64(data: Uint8Array): string {
  const parts: string[] = [];
  for (let at = 0; at < data.length; at += 3) {
    const count = Math.min(3, data.length - at);
    const bits = (data[at]! << 16) | ((data[at + 1] ?? 0) << 8) | (data[at + 2] ?? 0);
    for (let index = 0; index < 4; index++) {
      parts.push(index <= count ? ALPHABET[(bits >> (18 - 6 * index)) & 63]! : "=");
    }
  }
  return parts.join("");
}

/** Throws a SyntaxError for what is not base64. */
export function fromBase64(text: string): Uint8Array {
  const letters = text.replace(/={1,2}$/, "");
  if (text.length % 4 !== 0) throw new SyntaxError("this is not base64");
  const data = new Uint8Array((letters.length * 3) >> 2);
  let bits = 0;
  let held = 0;
  let at = 0;
  for (const letter of letters) {
    const value = ALPHABET.indexOf(letter);
    if (value < 0) throw new SyntaxError("this is not base64");
    bits = ((bits << 6) | value) & 0xffff;
    held += 6;
    if (held >= 8) {
      held -= 8;
      data[at++] = (bits >> held) & 0xff;
    }
  }
  return data;
}
