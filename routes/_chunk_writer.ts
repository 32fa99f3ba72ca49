/**
 * Writes a stream's chunks. What stays the same is written once: per token only its text goes through JSON.
 *
 * @module
 */

import type { Delta, Usage } from "../engine/types.ts";
import type { ResponseHead } from "./_handler.ts";
import { usageJson } from "./_respond.ts";
import { DONE_EVENT } from "./sse.ts";

/** What a stream's chunks hold beside the choices. */
export interface ChunkOptions {
  readonly head: ResponseHead;
  /** For example "chat.completion.chunk". */
  readonly object: string;
  readonly includeUsage: boolean;
  readonly continuousUsage: boolean;
  readonly numPromptTokens: number;
}

/**
 * Chunk events of one stream:
 *
 * ```text
 * data: {"id":..,"object":..,..,"choices":[ CHOICE ],"usage":null}\n\n
 * |-------------- start ------------------|        |---- end ----|
 * ```
 */
export class ChunkWriter {
  readonly #start: string;
  readonly #options: ChunkOptions;
  #numCompletionTokens = 0;

  constructor(options: ChunkOptions) {
    this.#options = options;
    const { id, created, model, system_fingerprint } = options.head;
    const head = JSON.stringify({ id, object: options.object, created, model, system_fingerprint });
    this.#start = `data: ${head.slice(0, -1)},"choices":[`;
  }

  /** Counts tokens for the running usage. */
  count(delta: Delta): void {
    this.#numCompletionTokens += delta.tokenIds.length;
  }

  /** @param choice JSON. @param extra More top-level fields, for example `,"prompt_token_ids":[1]`. */
  chunk(choice: string, extra = ""): string {
    return `${this.#start}${choice}]${extra}${this.#usageField()}}\n\n`;
  }

  /** The chunk with the usage, where it is asked for, and the event that ends the stream. */
  end(usage: Usage): string {
    if (!this.#options.includeUsage) return DONE_EVENT;
    return `${this.#start}],"usage":${JSON.stringify(usageJson(usage))}}\n\n${DONE_EVENT}`;
  }

  #usageField(): string {
    const { includeUsage, continuousUsage, numPromptTokens } = this.#options;
    if (!includeUsage) return "";
    if (!continuousUsage) return ',"usage":null';
    const completion = this.#numCompletionTokens;
    return `,"usage":${
      JSON.stringify({
        prompt_tokens: numPromptTokens,
        completion_tokens: completion,
        total_tokens: numPromptTokens + completion,
      })
    }`;
  }
}
