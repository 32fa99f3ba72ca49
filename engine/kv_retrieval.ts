/**
 * Long-context retrieval by construction: keys planted at given depths of a text, asked for at its end.
 *
 * @module
 */

import type { Tokenizer } from "../models/types.ts";
import type { KvComparison } from "./kv_comparison.ts";

/** What one cache finds in a context of one length. */
export interface KvRetrieval {
  readonly name: string;
  /** Of each key, from the text's beginning to its end. */
  readonly keys: readonly RetrievedKey[];
}

/** One key asked for. */
export interface RetrievedKey {
  /** Where it was planted: 0 = at the beginning, 1 = at the end. */
  readonly depth: number;
  /** Every token of the answer was the most likely one. */
  readonly found: boolean;
  /** Natural log-probability of the whole answer. */
  readonly logprob: number;
}

export interface KvRetrievalOptions {
  readonly tokenizer: Tokenizer;
  /** What the keys are planted in; at least `contextLength` tokens. */
  readonly haystack: readonly number[];
  /** Tokens in all, question and answer included; at least {@linkcode MIN_CONTEXT}. */
  readonly contextLength: number;
}

/** The shortest context in which a key and its question have room. */
export const MIN_CONTEXT = 128;

/** Two keys in a context of 256 tokens, at most ten. */
const TOKENS_A_KEY = 128;
const KEYS = [
  ["Lisbon", 58213],
  ["Oslo", 90467],
  ["Cairo", 31852],
  ["Lima", 74096],
  ["Kyoto", 26741],
  ["Dublin", 83509],
  ["Havana", 47628],
  ["Vienna", 15934],
  ["Nairobi", 69270],
  ["Quebec", 52386],
] as const;

interface Key {
  readonly depth: number;
  readonly planted: readonly number[];
  readonly question: readonly number[];
  readonly answer: readonly number[];
}

/**
 * Plants up to ten keys at even depths of one text, fills every cache with it once and asks for each key.
 *
 * @returns One entry a variant, the reference's first.
 * @throws {RangeError} The haystack or the context is too short.
 */
export function measureKvRetrieval(comparison: KvComparison, options: KvRetrievalOptions): KvRetrieval[] {
  const { text, keys } = plantKeys(options);
  comparison.truncate(0);
  comparison.fill(text);
  const found: RetrievedKey[][] = comparison.variants.map(() => []);
  for (const { depth, question, answer } of keys) {
    comparison.truncate(text.length);
    const targets = [...question.slice(1).map(() => -1), ...answer];
    const compared = comparison.compare([...question, ...answer.slice(0, -1)], targets);
    const add = (variant: number, tops: readonly number[], logprobs: readonly number[]) =>
      found[variant]!.push({
        depth,
        found: answer.every((token, i) => tops[i] === token),
        logprob: logprobs.reduce((sum, logprob) => sum + logprob, 0),
      });
    const answered = compared.map((all) => all.slice(question.length - 1));
    const [first] = answered;
    add(0, first!.map(({ referenceTop }) => referenceTop), first!.map(({ referenceLogprob }) => referenceLogprob));
    answered.forEach((all, i) => add(i + 1, all.map(({ top }) => top), all.map(({ logprob }) => logprob)));
  }
  return comparison.variants.map(({ name }, i) => ({ name, keys: found[i]! }));
}

/**
 * The text to fill the caches with, and the keys in it.
 *
 *     | BOS | haystack | key 0 | haystack | key 1 | ... | haystack | question | answer |
 *     |<------------------------- contextLength ----------------------------------------->|
 */
export function plantKeys({ tokenizer, haystack, contextLength }: KvRetrievalOptions): {
  text: number[];
  keys: Key[];
} {
  if (contextLength < MIN_CONTEXT || haystack.length < contextLength) {
    throw new RangeError(
      `Cannot plant keys in ${contextLength} tokens: expected ${MIN_CONTEXT} or more, and as many of text, ` +
        `which has ${haystack.length}`,
    );
  }
  const numKeys = Math.min(KEYS.length, Math.floor(contextLength / TOKENS_A_KEY));
  const keys = KEYS.slice(0, numKeys).map(([name, number], i) =>
    makeKey(tokenizer, name, `${number}`, (i + 0.5) / numKeys)
  );
  const [first] = tokenizer.encode("");
  const head = first !== undefined && first === tokenizer.bosTokenId ? [first] : [];
  const longest = Math.max(...keys.map(({ question, answer }) => question.length + answer.length));
  const numPlanted = keys.reduce((sum, { planted }) => sum + planted.length, 0);
  const numHay = contextLength - head.length - numPlanted - longest;
  const text = [...head];
  let taken = 0;
  for (const { depth, planted } of keys) {
    const end = Math.round(depth * numHay);
    text.push(...haystack.slice(taken, end), ...planted);
    taken = end;
  }
  text.push(...haystack.slice(taken, numHay));
  return { text, keys };
}

function makeKey(tokenizer: Tokenizer, name: string, number: string, depth: number): Key {
  const encode = (text: string) => tokenizer.encode(text, { addSpecialTokens: false, parseSpecialTokens: false });
  const asked = `\n\nThe secret number of ${name} is`;
  // Where the question's last token runs into the answer, it belongs to the answer.
  const whole = encode(`${asked} ${number}`);
  const alone = encode(asked);
  const differs = whole.findIndex((token, i) => token !== alone[i]);
  return {
    depth,
    planted: encode(`${asked} ${number}.\n\n`),
    question: whole.slice(0, differs),
    answer: whole.slice(differs),
  };
}
