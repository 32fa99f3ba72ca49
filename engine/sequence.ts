/**
 * A live request and its sequences, as the scheduler sees them.
 *
 * ```
 *            prompt            output
 *  tokens  [p p p p p p p p p | o o o o]     numTokens = 13
 *  pages   [ 7     ][ 2     ][ 9     ]       in order; page i holds tokens i * pageSize ..
 *           ^^^^^^^^^^^^^^^^^^^^^^^^ numComputed = 12: their K and V are in the pages
 * ```
 * A sequence with one token to compute decodes, with more it prefills: there is no other difference. Preempted, it
 * loses its pages (numComputed = 0) and later prefills prompt and output alike.
 *
 * @module
 */

import type { ChoicePlace } from "./choice_tree.ts";
import type { Guesser } from "./guesser.ts";
import type { LogitEdits } from "./logit_edits.ts";
import type { PageName } from "./prefix_hash.ts";
import { newPromptScores, type PromptScores } from "./prompt_scores.ts";
import type { Delta, SamplingParams, Tenant } from "./types.ts";
import type { SequenceOutput } from "./sequence_output.ts";
import type { Account } from "./waiting_queue.ts";

const MASK_32 = 0xffffffffn;

/** A request between submission and its terminal event. */
export class LiveRequest {
  readonly sequences: readonly Sequence[];
  /** Sequences that have not finished. */
  numUnfinished: number;
  /** Sequences that hold pages. */
  numRunning = 0;
  numCompletionTokens = 0;
  /** Tokens guessed for its sequences, and those of them that were kept. */
  numGuessed = 0;
  numKept = 0;
  /** Of its tenant; set when it is queued. */
  account: Account | null = null;
  /** The running sequence that computes the prompt's pages, for which its sisters wait. */
  leader: Sequence | null = null;
  /** Prompt tokens found in the prefix cache when its first sequence was admitted; null before. */
  numCachedTokens: number | null = null;
  /** Bits of the tokens that may be sampled, bit t % 32 of word t / 32; null: all. Made when first written to a step. */
  tokenMask: Uint32Array | null | undefined = undefined;
  /** Log-probabilities of the prompt's tokens, where they are asked for. */
  readonly scores: PromptScores | null;
  /** Tokens of the prompt whose scores the steps submitted tell; Infinity where none are left to ask for. */
  numScored: number;
  /** Scores that have not been read. */
  numScoresLeft: number;
  hasSentScores = false;
  /** What this step added, until the step's outcomes are taken; null: nothing. */
  deltas: Delta[] | null = null;

  /**
   * @param key Names the request in messages; never used twice.
   * @param id The client's name for it, for the log.
   * @param priority Lower goes first.
   * @param cacheSalt Requests of different salts share no page.
   * @param tenant Among waiting requests of equal priority, tenants share the engine by weight.
   * @param kvIndex Which of the engine's KV dtypes its pages have.
   */
  constructor(
    readonly key: number,
    readonly id: string,
    readonly prompt: Int32Array,
    readonly sampling: SamplingParams,
    readonly priority = 0,
    readonly cacheSalt = "",
    readonly tenant: Tenant = DEFAULT_TENANT,
    readonly kvIndex = 0,
  ) {
    this.sequences = Array.from({ length: sampling.n }, (_, index) => new Sequence(this, index));
    this.numUnfinished = sampling.n;
    this.scores = sampling.promptLogprobs === null ? null : newPromptScores(prompt.length, sampling.promptLogprobs);
    this.numScoresLeft = this.scores === null ? 0 : this.scores.rank.length;
    this.numScored = this.numScoresLeft > 0 ? 0 : Infinity;
  }

  /** Takes the next `count` scores as asked for. */
  countScores(count: number): void {
    this.numScored += count;
    if (this.numScored === this.prompt.length - 1) this.numScored = Infinity;
  }
}

/** Of requests that name none. */
const DEFAULT_TENANT: Tenant = { name: "", weight: 1 };

export type SequenceState = "waiting" | "running" | "finished";

/** One token stream and its page table. */
export class Sequence {
  state: SequenceState = "waiting";
  readonly output: number[] = [];
  /** Page ids in order, of which the first `numPages` are valid. Allocated when first admitted. */
  pages: Int32Array = NO_PAGES;
  numPages = 0;
  /** Tokens whose K and V are in the pages, or will be by the steps submitted. */
  numComputed = 0;
  /** The transfer that the last of the pages it began with comes back from the host with; 0: none. */
  arrival = 0;
  /** Tokens sampled by steps submitted whose ids have not been read: 0 or 1. */
  numUnread = 0;
  /** Its row in the step submitted last, which names an unread token. */
  row = 0;
  /** Most tokens that it has had computed: fewer are computed again after a preemption. */
  numEverComputed = 0;
  /** The request's, or a lower one when it was admitted for its long wait. */
  priority: number;
  /** Tokens of the step being scheduled, its guesses among them. */
  queryLen = 0;
  /** How many of the guesser's guesses are in that step, behind the last token. */
  numGuesses = 0;
  /** Scores of that step: of the tokens that follow its tokens from place `scoreBegin` of the prompt on. */
  numScores = 0;
  scoreBegin = 0;
  /** Names of its full pages, as far as they were needed. */
  readonly pageNames: PageName[] = [];
  /** The turn of {@linkcode LongPrompts} that has looked for its tokens in the prefix cache, and how many it saw there. */
  lookedAtTurn = -1;
  numHitsSeen = 0;
  /** Times it was admitted: a page table seen in an earlier admission is void. */
  numAdmissions = 0;
  /** Null when the sampling params need none; undefined before the first admission. */
  edits: LogitEdits | null | undefined = undefined;
  /** Where it has come to in the tree of the texts that it is kept to; null: it is free. Set before its first token. */
  choice: ChoicePlace | null = null;
  /** Guesses at its next tokens; made when it first decodes, if it speculates. */
  guesser: Guesser | null = null;
  /** Text so far; made with the first token. */
  text: SequenceOutput | null = null;
  readonly seedLow: number;
  readonly seedHigh: number;

  constructor(readonly request: LiveRequest, readonly index: number) {
    this.priority = request.priority;
    const seed = BigInt.asUintN(64, request.sampling.seed + BigInt(index));
    this.seedLow = Number(seed & MASK_32);
    this.seedHigh = Number(seed >> 32n);
  }

  /** Tokens sampled, incl. those not read. */
  get numSampled(): number {
    return this.output.length + this.numUnread;
  }

  /** Tokens, incl. those sampled but not read. */
  get numTokens(): number {
    return this.request.prompt.length + this.numSampled;
  }

  /** Whether a token sampled changes how the next is: then its id must be read first. */
  get dependsOnOutput(): boolean {
    return this.choice !== null || (this.edits?.dependsOnOutput ?? false);
  }

  /** Whether an unread token is its last by length: no step is needed any more. */
  get isFull(): boolean {
    return this.numSampled === this.request.sampling.maxTokens;
  }

  /** Tokens still to compute before the next one can be sampled; >= 1 while unfinished. */
  get numPending(): number {
    return this.numTokens - this.numComputed;
  }

  /** Most tokens it can ever have in pages: the last one sampled is never computed. */
  get maxKvTokens(): number {
    return this.request.prompt.length + this.request.sampling.maxTokens - 1;
  }

  /** Copies tokens `begin .. begin + count - 1` to `target[at ..]`; an unread one as `-(row + 1)`. */
  copyTokens(target: Int32Array, at: number, begin: number, count: number): void {
    const { prompt } = this.request;
    const end = begin + count;
    if (begin < prompt.length) target.set(prompt.subarray(begin, Math.min(end, prompt.length)), at);
    for (let i = Math.max(begin, prompt.length); i < end; i++) {
      target[at + i - begin] = this.output[i - prompt.length] ?? -(this.row + 1);
    }
  }
}

const NO_PAGES = new Int32Array(0);
