/**
 * Comparisons of two KV caches in the engine's Worker, one at a time: a turn of it runs between two steps, in engines of
 * its own that are opened for it and closed behind it.
 *
 * @module
 */

import { STATUS } from "../ffi/enums.ts";
import { NativeError } from "../ffi/library.ts";
import type { KvComparison, KvComparisonOptions } from "./kv_comparison.ts";
import type { ComparedMessage, CompareMessage } from "./messages.ts";
import { TokenComparison } from "./token_comparison.ts";

export interface KvComparerOptions {
  /** Opens the engines. */
  readonly open: (options: Pick<KvComparisonOptions, "variants" | "maxTokens">) => KvComparison;
  readonly eosTokenIds: readonly number[];
}

interface Job {
  readonly key: number;
  readonly comparison: KvComparison;
  readonly work: TokenComparison;
}

export class KvComparer {
  readonly #options: KvComparerOptions;
  #waiting: CompareMessage | null = null;
  #job: Job | null = null;

  constructor(options: KvComparerOptions) {
    this.#options = options;
  }

  /** Whether there is nothing to do. */
  get isIdle(): boolean {
    return this.#waiting === null && this.#job === null;
  }

  /** Takes a comparison. The other thread sends the next one only when this one has been answered or aborted. */
  start(message: CompareMessage): void {
    this.#waiting = message;
  }

  /** Drops a comparison, without an answer. False: it is another one, or none. */
  abort(key: number): boolean {
    if (this.#waiting?.key === key) {
      this.#waiting = null;
      return true;
    }
    if (this.#job?.key !== key) return false;
    this.close();
    return true;
  }

  /** Does a part of the work. @returns The answer, once there is one. */
  turn(): ComparedMessage | null {
    if (this.isIdle) return null;
    const key = (this.#job ?? this.#waiting)!.key;
    try {
      const { work } = this.#job ??= this.#open(this.#waiting!);
      this.#waiting = null;
      work.step();
      if (!work.isDone) return null;
      this.close();
      return { type: "compared", key, tokens: work.tokens, error: null };
    } catch (error) {
      // What goes wrong here is the comparison's alone: the engine's own steps tell if the device is lost.
      this.#waiting = null;
      this.close();
      const isOutOfMemory = error instanceof NativeError && (error.status === STATUS.OUT_OF_MEMORY ||
        /out of memory/.test(error.message));
      return { type: "compared", key, tokens: null, error: { message: (error as Error).message, isOutOfMemory } };
    }
  }

  /** Closes the engines of what is under way. */
  close(): void {
    this.#job?.comparison.close();
    this.#job = null;
  }

  #open({ key, variants, prompt, maxTokens }: CompareMessage): Job {
    const { open, eosTokenIds } = this.#options;
    const comparison = open({ variants, maxTokens: prompt.length + maxTokens });
    const request = { promptTokenIds: [...prompt], maxTokens, eosTokenIds };
    return { key, comparison, work: new TokenComparison(comparison, request) };
  }
}
