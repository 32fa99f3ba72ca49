/**
 * From a request's text to token ids, with the cost bounded before it is paid.
 *
 * @module
 */

import { badRequest } from "./errors.ts";
import type { Server } from "./_server.ts";
import type { PromptInput } from "./schemas/completion.ts";

/** Tokenizing short prompts goes on for this many characters before other work gets its turn. */
const CHARS_PER_TURN = 16_384;

/** How prompts are turned into tokens. */
export interface TokenizeOptions {
  /** Field to name in errors. */
  readonly param: string;
  readonly addSpecialTokens: boolean;
}

/**
 * Tokenizes prompts one after another, letting other work run in between.
 *
 * @throws {ApiError} 400 when a prompt is empty or cannot fit the model.
 */
export async function tokenizePrompts(
  server: Server,
  prompts: readonly PromptInput[],
  options: TokenizeOptions,
): Promise<readonly number[][]> {
  const all: number[][] = [];
  let numChars = 0;
  for (const prompt of prompts) {
    if (numChars > CHARS_PER_TURN) {
      await new Promise((resolve) => setTimeout(resolve, 0));
      numChars = 0;
    }
    numChars += prompt.length;
    const tokenIds = typeof prompt === "string" ? await encodeText(server, prompt, options) : [...prompt];
    if (tokenIds.length === 0) throw badRequest("The prompt has no tokens", { param: options.param });
    all.push(tokenIds);
  }
  return all;
}

/**
 * The tokens of a text.
 *
 * @throws {ApiError} 400 when it cannot fit the model.
 */
export async function encodeText(
  server: Server,
  text: string,
  { param, addSpecialTokens }: TokenizeOptions,
): Promise<number[]> {
  checkNumChars(server, text.length, param);
  // JSON can hold halves of surrogate pairs; they become U+FFFD as they would in UTF-8.
  return await server.promptEncoder.encode(text.toWellFormed(), { addSpecialTokens });
}

/**
 * Refuses a text that no tokenizing could make short enough: a token holds a bounded number of bytes, and a character
 * (UTF-16 unit) takes at least one.
 *
 * @throws {ApiError} 400 `context_length_exceeded`.
 */
export function checkNumChars(server: Server, numChars: number, param: string, what = "prompt"): void {
  const { maxModelLen } = server.engine.info;
  const atLeast = Math.ceil(numChars / server.tokenTexts.longestBytes);
  if (atLeast > maxModelLen) throw contextLengthExceeded(maxModelLen, `a ${what} of at least ${atLeast}`, param);
}

/**
 * How many tokens a sequence may get.
 *
 * @param wanted What the request says, or null for `fallback`, which is cut to what the context and the cache have left.
 * @throws {ApiError} 400 `context_length_exceeded`.
 */
export function maxTokens(
  server: Server,
  numPromptTokens: number,
  options: { wanted: number | null; fallback: number; param: string },
): number {
  const { maxModelLen, kvCacheDtypes } = server.engine.info;
  // Of the dtype that holds least, whatever the request's is.
  const numKvTokens = Math.min(...kvCacheDtypes.map((one) => one.numKvTokens));
  const left = maxModelLen - numPromptTokens;
  const { wanted, fallback, param } = options;
  if (left < 1) throw contextLengthExceeded(maxModelLen, `a prompt of ${numPromptTokens}`, param);
  if (wanted === null) return Math.max(1, Math.min(fallback, left, numKvTokens - numPromptTokens));
  if (wanted > left) {
    const total = numPromptTokens + wanted;
    throw contextLengthExceeded(maxModelLen, `${total} (${numPromptTokens} of prompt, ${wanted} of output)`, param);
  }
  return wanted;
}

function contextLengthExceeded(maxModelLen: number, needed: string, param: string): Error {
  return badRequest(`The model's context holds ${maxModelLen} tokens, the request needs ${needed}`, {
    param,
    code: "context_length_exceeded",
  });
}
