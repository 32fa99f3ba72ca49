/**
 * A sequence's entries in the step buffer's logit edit tables: bias, bans (of stop ids until `minTokens`, and of bad
 * words' last tokens) and the token counts that the penalties need. Kept as columns, so that a step copies them with four block moves.
 *
 * @module
 */

import { EDIT_FLAG } from "../ffi/enums.ts";
import type { StepBufferViews } from "./native.ts";
import type { SamplingParams } from "./types.ts";

/** Ids that end a sequence with these sampling params. */
export function stopIds(sampling: SamplingParams, eosTokenIds: readonly number[]): ReadonlySet<number> {
  return new Set(sampling.ignoreEos ? sampling.stopTokenIds : [...eosTokenIds, ...sampling.stopTokenIds]);
}

/**
 * Most entries a sequence can ever need.
 *
 * @param numEosTokenIds How many ids end a sequence.
 */
export function maxLogitEdits(
  sampling: SamplingParams,
  size: { promptTokens: number; numEosTokenIds: number; vocabSize: number },
): number {
  let edits = sampling.logitBias.size;
  if (sampling.minTokens > 0) edits += sampling.stopTokenIds.length + size.numEosTokenIds;
  edits += sampling.badWords.length;
  if (countsOutput(sampling)) edits += sampling.maxTokens;
  if (sampling.repetitionPenalty !== 1) edits += size.promptTokens;
  return Math.min(edits, size.vocabSize);
}

function countsOutput(sampling: SamplingParams): boolean {
  return sampling.presencePenalty !== 0 || sampling.frequencyPenalty !== 0 || sampling.repetitionPenalty !== 1;
}

/** The edits of one sequence, grown as it generates. */
export class LogitEdits {
  length = 0;
  #token = new Int32Array(16);
  #count = new Int32Array(16);
  #flags = new Int32Array(16);
  #bias = new Float32Array(16);
  readonly #entry = new Map<number, number>();
  readonly #countsOutput: boolean;
  /** Stop ids, until `minTokens` is reached. */
  #stopBans: ReadonlySet<number>;
  /** Tokens that are bad words by themselves. */
  readonly #wordBans: ReadonlySet<number>;
  /** Bad words of several tokens. */
  readonly #words: readonly (readonly number[])[];
  /** Last tokens of the words that the output's end has begun. */
  #begunBans: ReadonlySet<number> = new Set();
  /** The output's last tokens, one fewer than the longest word has. */
  readonly #tail: number[] = [];
  readonly #maxTail: number;

  /** Edits for a sequence with this prompt and, after a preemption, output. */
  constructor(sampling: SamplingParams, prompt: Int32Array, stopIds: ReadonlySet<number>) {
    this.#countsOutput = countsOutput(sampling);
    this.#stopBans = sampling.minTokens > 0 ? stopIds : new Set();
    this.#wordBans = new Set(sampling.badWords.filter(({ length }) => length === 1).map(([token]) => token!));
    this.#words = sampling.badWords.filter(({ length }) => length > 1);
    this.#maxTail = Math.max(0, ...this.#words.map(({ length }) => length - 1));
    // The entry first: finding it may replace the columns by larger ones.
    for (const [token, bias] of sampling.logitBias) {
      const entry = this.#find(token);
      this.#bias[entry] = bias;
    }
    this.#updateBans(new Set([...this.#stopBans, ...this.#wordBans]));
    if (sampling.repetitionPenalty === 1) return;
    for (const token of prompt) {
      const entry = this.#find(token);
      this.#flags[entry]! |= EDIT_FLAG.SEEN;
    }
  }

  /** The edits that these sampling params need, or null when they need none. */
  static for(sampling: SamplingParams, prompt: Int32Array, stopIds: ReadonlySet<number>): LogitEdits | null {
    const { logitBias, minTokens, badWords } = sampling;
    const needed = logitBias.size > 0 || minTokens > 0 || badWords.length > 0 || countsOutput(sampling);
    return needed ? new LogitEdits(sampling, prompt, stopIds) : null;
  }

  /** Whether a token sampled changes the edits of the next: then its id must be read first. */
  get dependsOnOutput(): boolean {
    return this.#countsOutput || this.#words.length > 0;
  }

  /** Whether stop ids are banned: until enough tokens are sampled, whatever they are. */
  get bansStops(): boolean {
    return this.#stopBans.size > 0;
  }

  /** Takes note of a sampled token. */
  count(token: number): void {
    if (this.#words.length > 0) this.#follow(token);
    if (!this.#countsOutput) return;
    const entry = this.#find(token);
    this.#count[entry]!++;
    this.#flags[entry]! |= EDIT_FLAG.SEEN;
  }

  /** Lifts the ban on stop ids: `minTokens` is reached. */
  liftBans(): void {
    const stopIds = this.#stopBans;
    this.#stopBans = new Set();
    this.#updateBans(stopIds);
  }

  /** Bans the last tokens of the words that now lack nothing else. */
  #follow(token: number): void {
    this.#tail.push(token);
    if (this.#tail.length > this.#maxTail) this.#tail.shift();
    const before = this.#begunBans;
    this.#begunBans = new Set(this.#words.filter((word) => this.#endsBefore(word)).map((word) => word.at(-1)!));
    this.#updateBans(new Set([...before, ...this.#begunBans]));
  }

  /** Whether the output ends with all of a word but its last token. */
  #endsBefore(word: readonly number[]): boolean {
    const begin = this.#tail.length - (word.length - 1);
    for (let i = 0; i < word.length - 1; i++) if (this.#tail[begin + i] !== word[i]) return false;
    return true;
  }

  /** Sets these tokens' flags to whether anything bans them now. */
  #updateBans(tokens: ReadonlySet<number>): void {
    for (const token of tokens) {
      const isBanned = this.#stopBans.has(token) || this.#wordBans.has(token) || this.#begunBans.has(token);
      const entry = this.#find(token);
      if (isBanned) this.#flags[entry]! |= EDIT_FLAG.BANNED;
      else this.#flags[entry]! &= ~EDIT_FLAG.BANNED;
    }
  }

  /** Copies all entries to the tables of a step, from entry `begin` on. */
  write(buffer: StepBufferViews, begin: number): void {
    buffer.editToken.set(this.#token.subarray(0, this.length), begin);
    buffer.editCount.set(this.#count.subarray(0, this.length), begin);
    buffer.editFlags.set(this.#flags.subarray(0, this.length), begin);
    buffer.editBias.set(this.#bias.subarray(0, this.length), begin);
  }

  /** The entry of a token, added if it has none. */
  #find(token: number): number {
    let entry = this.#entry.get(token);
    if (entry === undefined) {
      entry = this.length++;
      if (entry === this.#token.length) this.#grow();
      this.#entry.set(token, entry);
      this.#token[entry] = token;
    }
    return entry;
  }

  #grow(): void {
    const size = this.#token.length * 2;
    const grown = <T extends Int32Array | Float32Array>(to: T, from: T) => (to.set(from), to);
    this.#token = grown(new Int32Array(size), this.#token);
    this.#count = grown(new Int32Array(size), this.#count);
    this.#flags = grown(new Int32Array(size), this.#flags);
    this.#bias = grown(new Float32Array(size), this.#bias);
  }
}
