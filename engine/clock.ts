/**
 * One clock for all threads of the process.
 *
 * @module
 */

/** Milliseconds since 1970 that no change of the system's time moves: threads agree on it, as they all start from it. */
export function nowMs(): number {
  return performance.timeOrigin + performance.now();
}
