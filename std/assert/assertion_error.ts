/**
 * The error that every assertion throws.
 *
 * @module
 */

/** Thrown when an assertion does not hold. */
export class AssertionError extends Error {
  override name = "AssertionError";

  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
  }
}
