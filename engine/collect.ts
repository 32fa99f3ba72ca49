/**
 * A request's output as a whole.
 *
 * @module
 */

import type { Delta, Engine, FinishReason, GenerationRequest, PromptLogprob, TokenLogprob } from "./types.ts";

/** One completion of a prompt. */
export interface CompletionOutput {
  /** 0 .. n - 1. */
  readonly index: number;
  /** The text without what ended it. */
  readonly text: string;
  /** Its tokens, incl. special ones and the stop token. */
  readonly tokenIds: readonly number[];
  /** One entry a token when log-probabilities were asked for. */
  readonly logprobs: readonly TokenLogprob[] | null;
  /** Why it ended. */
  readonly finishReason: FinishReason;
  /** As of a `Delta`: the stop string or token id that ended it, "deadline", or null. */
  readonly stopReason: string | number | null;
}

/** The n completions of a request, by index. */
export type Collected = readonly [CompletionOutput, ...CompletionOutput[]];

/** A request under way. */
export interface Collection {
  readonly abort: () => void;
  readonly outputs: Promise<Collected>;
  /** Of the prompt's tokens, where they were asked for; complete when `outputs` is. */
  readonly promptLogprobs: () => readonly (PromptLogprob | null)[] | null;
}

/**
 * Submits a request and gathers its deltas.
 *
 * @returns `outputs` is rejected with an {@linkcode EngineError} when the engine fails; after `abort()` it holds what
 * there was.
 * @throws {RequestError} The engine refuses the request.
 */
export function collect(engine: Engine, request: GenerationRequest): Collection {
  const { promise, resolve, reject } = Promise.withResolvers<Collected>();
  const deltas: Delta[][] = Array.from({ length: request.sampling.n }, () => []);
  let ofPrompt: readonly (PromptLogprob | null)[] | null = null;
  const abort = engine.submit(request, {
    promptLogprobs: (logprobs) => ofPrompt = logprobs,
    deltas: (more) => {
      for (const delta of more) deltas[delta.index]!.push(delta);
    },
    end: () => {
      const [first, ...rest] = deltas.map(completion);
      resolve([first!, ...rest]);
    },
    error: reject,
  });
  return { abort, outputs: promise, promptLogprobs: () => ofPrompt };
}

/** Every sequence of a request that ended has a last delta, with its finish reason. */
function completion(deltas: readonly Delta[], index: number): CompletionOutput {
  const last = deltas.at(-1)!;
  return {
    index,
    text: deltas.map((delta) => delta.text).join(""),
    tokenIds: deltas.flatMap((delta) => delta.tokenIds),
    logprobs: last.logprobs === null ? null : deltas.flatMap((delta) => delta.logprobs!),
    finishReason: last.finishReason!,
    stopReason: last.stopReason,
  };
}
