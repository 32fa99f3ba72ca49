/**
 * A generation's HTTP response, streamed or whole; what the bytes look like is the format's matter.
 *
 * @module
 */

import type { Delta, GenerationRequest, PromptLogprob, TokenLogprob, Usage } from "../engine/types.ts";
import { type ApiError, errorEnvelope, toApiError } from "./errors.ts";
import { Generation } from "./_generation.ts";
import type { Server } from "./_server.ts";
import { type CutReason, dataEvent, EVENT_STREAM_HEADERS, EventStream } from "./sse.ts";

/** A choice that has ended. */
export interface Choice {
  readonly index: number;
  readonly promptIndex: number;
  text: string;
  readonly tokenIds: number[];
  readonly logprobs: TokenLogprob[];
  finishReason: string | null;
  stopReason: string | number | null;
}

/** How an endpoint writes what the engine says. One per request: it may keep state. */
export interface ResponseFormat {
  /** Takes a prompt's log-probabilities, before the first events of its choices and before the body. */
  promptLogprobs(promptIndex: number, logprobs: readonly (PromptLogprob | null)[]): void;
  /** Events for one delta of a choice; "" when there is nothing to say. */
  events(choiceIndex: number, promptIndex: number, delta: Delta): string;
  /** The events that a stream begins with, if there are any. */
  begin?(): string;
  /** The events that it ends with. */
  end(usage: Usage): string;
  /** The event that it ends with when it fails; an event with the error envelope where this is left out. */
  error?(error: ApiError): string;
  /** The whole response's body. */
  body(choices: readonly Choice[], usage: Usage): unknown;
}

/** What to generate and how to answer. */
export interface Job {
  readonly requests: readonly GenerationRequest[];
  readonly format: ResponseFormat;
  readonly isStream: boolean;
  /** When the HTTP request arrived, by `performance.now()`. */
  readonly startedMs: number;
  /** Aborted when the client goes away. */
  readonly signal: AbortSignal;
  /** Called once, when the request is over. */
  readonly onOver: () => void;
}

/** nginx's status for a client that went away; nobody sees it. */
const CLIENT_CLOSED_REQUEST = 499;

/**
 * Runs a job.
 *
 * @throws {RequestError} When the engine does not take it; `onOver` is not called then.
 */
export function respond(server: Server, job: Job): Response | Promise<Response> {
  if (job.signal.aborted) {
    job.onOver();
    return new Response(null, { status: CLIENT_CLOSED_REQUEST });
  }
  return job.isStream ? respondStreamed(server, job) : respondWhole(server, job);
}

/** Index of a sequence among all choices of a request. */
function choiceIndex(job: Job, promptIndex: number, delta: Delta): number {
  return promptIndex * job.requests[0]!.sampling.n + delta.index;
}

function respondStreamed(server: Server, job: Job): Response {
  const generation = new Generation(server, job.requests, job.startedMs);
  const over = onceOver(server, job, generation);
  const stream = new EventStream({
    maxBufferedBytes: server.maxBufferedBytes,
    keepAliveMs: server.keepAliveMs,
    onCut: over.cut,
  });
  try {
    stream.send(job.format.begin?.() ?? "");
    generation.start({
      promptLogprobs: (promptIndex, logprobs) => job.format.promptLogprobs(promptIndex, logprobs),
      deltas: (promptIndex, deltas) => {
        for (const delta of deltas) {
          stream.send(job.format.events(choiceIndex(job, promptIndex, delta), promptIndex, delta));
        }
      },
      end: (usage) => {
        over.done();
        stream.send(job.format.end(usage));
        stream.close();
      },
      error: (error) => {
        over.done();
        const apiError = toApiError(error);
        stream.send(job.format.error?.(apiError) ?? dataEvent(errorEnvelope(apiError)));
        stream.close();
      },
    });
  } catch (error) {
    over.detach();
    stream.close();
    throw error;
  }
  return new Response(stream.body, { headers: EVENT_STREAM_HEADERS });
}

function respondWhole(server: Server, job: Job): Promise<Response> {
  const generation = new Generation(server, job.requests, job.startedMs);
  const { promise, resolve, reject } = Promise.withResolvers<Response>();
  const over = onceOver(server, job, generation, () => resolve(new Response(null, { status: CLIENT_CLOSED_REQUEST })));
  const choices: Choice[] = job.requests.flatMap(({ sampling: { n } }, promptIndex) => {
    return Array.from({ length: n }, (_, i) => newChoice(promptIndex * n + i, promptIndex));
  });
  try {
    generation.start({
      promptLogprobs: (promptIndex, logprobs) => job.format.promptLogprobs(promptIndex, logprobs),
      deltas: (promptIndex, deltas) => {
        for (const delta of deltas) addDelta(choices[choiceIndex(job, promptIndex, delta)]!, delta);
      },
      end: (usage) => {
        over.done();
        resolve(Response.json(job.format.body(choices, usage)));
      },
      error: (error) => {
        over.done();
        reject(error);
      },
    });
  } catch (error) {
    over.detach();
    throw error;
  }
  return promise;
}

interface Over {
  /** The client went away or was cut off. */
  cut(reason: CutReason): void;
  /** The generation ended by itself. */
  done(): void;
  /** It never began. */
  detach(): void;
}

/** Ends a job exactly once, whoever says so first: the client, the stream or the engine. */
function onceOver(server: Server, job: Job, generation: Generation, onCut?: () => void): Over {
  let isOver = false;
  const onAbort = () => over.cut("disconnected");
  const over: Over = {
    cut(reason) {
      if (isOver) return;
      over.done();
      server.metrics.countCut(reason);
      generation.abort();
      onCut?.();
    },
    done() {
      over.detach();
      job.onOver();
    },
    detach() {
      isOver = true;
      job.signal.removeEventListener("abort", onAbort);
    },
  };
  job.signal.addEventListener("abort", onAbort);
  return over;
}

function newChoice(index: number, promptIndex: number): Choice {
  return { index, promptIndex, text: "", tokenIds: [], logprobs: [], finishReason: null, stopReason: null };
}

function addDelta(choice: Choice, delta: Delta): void {
  choice.text += delta.text;
  choice.tokenIds.push(...delta.tokenIds);
  if (delta.logprobs !== null) choice.logprobs.push(...delta.logprobs);
  choice.finishReason = delta.finishReason ?? choice.finishReason;
  choice.stopReason = delta.stopReason ?? choice.stopReason;
}

/** `usage` as OpenAI writes it. */
export function usageJson({ promptTokens, completionTokens, cachedTokens, guesses }: Usage): Record<string, unknown> {
  return {
    prompt_tokens: promptTokens,
    completion_tokens: completionTokens,
    total_tokens: promptTokens + completionTokens,
    prompt_tokens_details: { cached_tokens: cachedTokens },
    ...guesses && {
      completion_tokens_details: {
        accepted_prediction_tokens: guesses.kept,
        rejected_prediction_tokens: guesses.rejected,
      },
    },
  };
}
