/**
 * Errors that are the request's fault or the server's momentary state; routes turn them into OpenAI's envelope.
 *
 * @module
 */

/** A request that cannot be served as it is. HTTP 400. */
export class RequestError extends RangeError {
  override readonly name: string = "RequestError";
  /** The request's field at fault, in wire spelling, or null. */
  readonly param: string | null;
  /** OpenAI's machine-readable code, for example "context_length_exceeded", or null. */
  readonly code: string | null;

  constructor(message: string, options: { param?: string | null; code?: string | null } = {}) {
    super(message);
    this.param = options.param ?? null;
    this.code = options.code ?? null;
  }
}

/** The queue is full; trying again later may work. HTTP 429. */
export class OverloadedError extends RequestError {
  override readonly name = "OverloadedError";
}

/** The engine failed or was closed. HTTP 503. */
export class EngineError extends Error {
  override readonly name = "EngineError";
}
