/**
 * Errors as OpenAI's clients expect them: `{"error": {"message", "type", "param", "code"}}` with the right status. What
 * the client did wrong is 4xx and never 5xx: routers retry a 5xx on every replica.
 *
 * @module
 */

import { isClientErrorStatus, STATUS_CODE, STATUS_TEXT, type StatusCode } from "@std/http/status";
import { EngineError, OverloadedError, RequestError } from "../engine/errors.ts";

/** What {@linkcode ApiError} holds beside its message. */
export interface ApiErrorOptions {
  /** The request's field at fault, in wire spelling. */
  readonly param?: string | null;
  /** Machine-readable reason, for example "model_not_found". */
  readonly code?: string | null;
  /** Seconds after which trying again may work; without it a retry is pointless. */
  readonly retryAfterS?: number;
  readonly headers?: Readonly<Record<string, string>>;
  readonly cause?: unknown;
}

/** An error with the HTTP status and fields of its response. */
export class ApiError extends Error {
  override readonly name = "ApiError";
  readonly status: StatusCode;
  readonly options: ApiErrorOptions;

  constructor(status: StatusCode, message: string, options: ApiErrorOptions = {}) {
    super(message, { cause: options.cause });
    this.status = status;
    this.options = options;
  }
}

/** A 400: the request is wrong as it is. */
export function badRequest(message: string, options: ApiErrorOptions = {}): ApiError {
  return new ApiError(STATUS_CODE.BadRequest, message, options);
}

/** A 408: the request's deadline has passed before its first token. Trying again would miss it as well. */
export function deadlineExceeded(deadlineMs: number): ApiError {
  return new ApiError(
    STATUS_CODE.RequestTimeout,
    `The request's deadline of ${deadlineMs} ms passed before its first token`,
    { param: "deadline_ms", code: "deadline_exceeded" },
  );
}

/** The API's view of anything thrown; unknown errors become a 500 that tells nothing about the inside. */
export function toApiError(error: unknown): ApiError {
  if (error instanceof ApiError) return error;
  if (error instanceof OverloadedError) {
    return new ApiError(STATUS_CODE.TooManyRequests, error.message, {
      code: error.code ?? "rate_limit_exceeded",
      retryAfterS: 1,
    });
  }
  if (error instanceof RequestError) return badRequest(error.message, { param: error.param, code: error.code });
  if (error instanceof EngineError) {
    return new ApiError(STATUS_CODE.ServiceUnavailable, "The engine is not running", {
      code: "engine_unavailable",
      retryAfterS: 5,
      cause: error,
    });
  }
  return new ApiError(STATUS_CODE.InternalServerError, "The server failed to handle the request", { cause: error });
}

/** The envelope of an error's response, also sent as the last event of a stream that fails. */
export function errorEnvelope(error: ApiError): Record<string, unknown> {
  return {
    error: {
      message: error.message,
      type: errorType(error.status),
      param: error.options.param ?? null,
      code: error.options.code ?? null,
    },
  };
}

/** The response of an error. */
export function errorResponse(error: ApiError): Response {
  const headers = new Headers(error.options.headers);
  const { retryAfterS } = error.options;
  if (retryAfterS !== undefined) headers.set("retry-after", String(retryAfterS));
  // OpenAI's clients retry 408, 409, 429 and 5xx by themselves unless told otherwise.
  else headers.set("x-should-retry", "false");
  return Response.json(errorEnvelope(error), { status: error.status, statusText: STATUS_TEXT[error.status], headers });
}

function errorType(status: StatusCode): string {
  if (status === STATUS_CODE.TooManyRequests) return "rate_limit_error";
  return isClientErrorStatus(status) ? "invalid_request_error" : "server_error";
}
