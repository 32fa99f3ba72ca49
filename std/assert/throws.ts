/**
 * Assertions about errors that functions throw and promises reject with.
 *
 * @module
 */

import { AssertionError } from "./assertion_error.ts";
import { suffix } from "./values.ts";

// deno-lint-ignore no-explicit-any
type ErrorClass<E extends Error> = abstract new (...args: any[]) => E;

/** Holds when `fn` throws; returns what was thrown. */
export function assertThrows(fn: () => unknown, msg?: string): unknown;
/** Holds when `fn` throws an error of this class whose message contains `msgIncludes`; returns the error. */
export function assertThrows<E extends Error = Error>(
  fn: () => unknown,
  ErrorClass: ErrorClass<E>,
  msgIncludes?: string,
  msg?: string,
): E;
export function assertThrows<E extends Error = Error>(
  fn: () => unknown,
  errorClassOrMsg?: ErrorClass<E> | string,
  msgIncludes?: string,
  msg?: string,
): E | unknown {
  const wanted = readArguments(errorClassOrMsg, msgIncludes, msg);
  let thrown: unknown;
  try {
    fn();
  } catch (error) {
    thrown = error;
    checkError(thrown, wanted);
    return thrown;
  }
  throw new AssertionError(`Expected function to throw${suffix(wanted.msg)}`);
}

/** Holds when the promise that `fn` returns is rejected; resolves to the reason. */
export function assertRejects(fn: () => PromiseLike<unknown>, msg?: string): Promise<unknown>;
/** Holds when it is rejected with an error of this class whose message contains `msgIncludes`; resolves to the error. */
export function assertRejects<E extends Error = Error>(
  fn: () => PromiseLike<unknown>,
  ErrorClass: ErrorClass<E>,
  msgIncludes?: string,
  msg?: string,
): Promise<E>;
export async function assertRejects<E extends Error = Error>(
  fn: () => PromiseLike<unknown>,
  errorClassOrMsg?: ErrorClass<E> | string,
  msgIncludes?: string,
  msg?: string,
): Promise<E | unknown> {
  const wanted = readArguments(errorClassOrMsg, msgIncludes, msg);
  let promise: PromiseLike<unknown>;
  try {
    promise = fn();
  } catch (cause) {
    throw new AssertionError(`Function throws when expected to reject${suffix(wanted.msg)}`, { cause });
  }
  try {
    await promise;
  } catch (error) {
    checkError(error, wanted);
    return error;
  }
  throw new AssertionError(`Expected function to reject${suffix(wanted.msg)}`);
}

interface Wanted {
  ErrorClass: ErrorClass<Error> | undefined;
  msgIncludes: string | undefined;
  msg: string | undefined;
}

function readArguments(
  errorClassOrMsg: ErrorClass<Error> | string | undefined,
  msgIncludes: string | undefined,
  msg: string | undefined,
): Wanted {
  if (typeof errorClassOrMsg === "string") {
    return { ErrorClass: undefined, msgIncludes: undefined, msg: errorClassOrMsg };
  }
  return { ErrorClass: errorClassOrMsg, msgIncludes, msg };
}

function checkError(error: unknown, { ErrorClass, msgIncludes, msg }: Wanted): void {
  if (ErrorClass === undefined) return;
  if (!(error instanceof Error)) {
    throw new AssertionError(`A non-Error object was thrown or rejected${suffix(msg)}`, { cause: error });
  }
  const found: string = error.constructor?.name ?? "Object";
  if (!(error instanceof ErrorClass)) {
    throw new AssertionError(
      `Expected error to be instance of "${ErrorClass.name}", but was "${found}"${suffix(msg)}`,
      { cause: error },
    );
  }
  if (msgIncludes !== undefined && !error.message.includes(msgIncludes)) {
    throw new AssertionError(
      `Expected error message to include ${JSON.stringify(msgIncludes)}, but got ${JSON.stringify(error.message)}` +
        suffix(msg),
      { cause: error },
    );
  }
}
