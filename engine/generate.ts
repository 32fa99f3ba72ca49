/**
 * A request as an async iterable.
 *
 * @module
 */

import type { Delta, Engine, GenerationRequest, Usage } from "./types.ts";

/**
 * Submits a request and yields what each step adds; returns the usage. Leaving the loop early aborts the request.
 * Steps that pass while the consumer is busy are yielded together.
 *
 * @throws {RequestError} At the first `next()`: the engine refuses the request.
 * @throws {EngineError} The engine fails.
 *
 * @example
 * ```ts ignore
 * for await (const deltas of generate(engine, { id: "1", promptTokenIds, sampling })) {
 *   for (const delta of deltas) console.log(delta.text);
 * }
 * ```
 */
export async function* generate(
  engine: Engine,
  request: GenerationRequest,
): AsyncGenerator<readonly Delta[], Usage, undefined> {
  let deltas: Delta[] = [];
  let usage: Usage | null = null;
  let failure: Error | null = null;
  let wake = () => {};
  const abort = engine.submit(request, {
    deltas: (more) => (deltas.push(...more), wake()),
    end: (value) => (usage = value, wake()),
    error: (error) => (failure = error, wake()),
  });
  try {
    while (true) {
      if (deltas.length > 0) {
        const ready = deltas;
        deltas = [];
        yield ready;
      } else if (failure !== null) {
        throw failure;
      } else if (usage !== null) {
        return usage;
      } else {
        await new Promise<void>((resolve) => wake = resolve);
      }
    }
  } finally {
    abort();
  }
}
