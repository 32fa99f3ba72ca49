/**
 * Failures with the Hugging Face hub.
 *
 * @module
 */

/** A repository cannot be found, read, reached or used; the message is one sentence that says what to do. */
export class HubError extends Error {
  override readonly name = "HubError";
}
