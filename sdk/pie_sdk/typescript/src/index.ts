/** What inferlets are written with in TypeScript. */

export { PieError } from "./errors";
export { dispose, ready, result, resultOnce, sleep, type Waitable } from "./reactor";
