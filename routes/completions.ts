/**
 * `POST /v1/completions`.
 *
 * @module
 */

import { Hono } from "hono";
import type { Delta, PromptLogprob, SamplingParams, Usage } from "../engine/types.ts";
import { ChunkWriter } from "./_chunk_writer.ts";
import { type Endpoint, generationHandler, type Plan, type ResponseHead, responseHead } from "./_handler.ts";
import { CompletionLogprobs, type Echo, promptLogprobsJson, type TokenTexts } from "./_logprobs.ts";
import { maxTokens, tokenizePrompts } from "./_prompt.ts";
import { type Choice, type ResponseFormat, usageJson } from "./_respond.ts";
import { checkPromptLogprobs, requestOrder, requestSampling } from "./_sampling.ts";
import type { Server } from "./_server.ts";
import { badRequest } from "./errors.ts";
import { servedName } from "./models.ts";
import { type CompletionBody, completionBody, DEFAULT_MAX_TOKENS } from "./schemas/completion.ts";
import { COMPLETION_REFUSED_FIELDS } from "./schemas/refused_fields.ts";

/** Most choices of one request: prompts times `n`. */
export const MAX_CHOICES = 1024;

/** What a log-probability takes in a response, about. */
const LOGPROB_BYTES = 64;

/** The completion route. */
export function completionRoutes(server: Server): Hono {
  const endpoint: Endpoint<typeof completionBody> = {
    schema: completionBody,
    refused: COMPLETION_REFUSED_FIELDS,
    plan: planCompletion,
  };
  return new Hono().post("/v1/completions", generationHandler(server, endpoint));
}

async function planCompletion(server: Server, body: CompletionBody): Promise<Plan> {
  const model = servedName(server, body.model);
  checkCombinations(body);
  const prompts = await tokenizePrompts(server, body.prompt, {
    param: "prompt",
    addSpecialTokens: body.add_special_tokens ?? true,
  });
  checkEchoedLogprobs(server, body, prompts);
  const requests = prompts.map((promptTokenIds) => ({
    id: crypto.randomUUID(),
    ...requestOrder(server, body),
    promptTokenIds,
    sampling: promptSampling(server, body, promptTokenIds.length),
  }));
  const head = responseHead(server, { prefix: "cmpl-", requestId: body.request_id, model });
  const echoes = body.echo === true ? body.prompt.map((prompt) => promptText(server, prompt)) : null;
  return {
    requests,
    format: new CompletionFormat(server.tokenTexts, head, body, { prompts, echoes }),
    isStream: body.stream === true,
  };
}

function checkCombinations(body: CompletionBody): void {
  const n = body.n ?? 1;
  const made = body.best_of ?? n;
  if (body.prompt.length * made > MAX_CHOICES) {
    const param = made > n ? "best_of" : "n";
    const received = `${body.prompt.length} prompts x ${param} ${made}`;
    throw badRequest(`A request may have at most ${MAX_CHOICES} choices, received ${received}`, { param });
  }
  if (made < n) throw badRequest(`"best_of" must be at least n ${n}, received ${made}`, { param: "best_of" });
  if (made > n && body.stream === true) {
    throw badRequest('"best_of" above n cannot be streamed: which choices are best is known at the end', {
      param: "best_of",
    });
  }
  if (body.max_tokens === 0 && body.echo !== true) {
    throw badRequest('"max_tokens" must be at least 1 without "echo": true, received 0', { param: "max_tokens" });
  }
  checkPromptLogprobs(body);
}

/** In a stream an echoed prompt's log-probabilities go out at once, so they must fit what a reader may leave unread. */
function checkEchoedLogprobs(server: Server, body: CompletionBody, prompts: readonly (readonly number[])[]): void {
  if (body.stream !== true || body.echo !== true || (body.logprobs ?? null) === null) return;
  const numTokens = prompts.reduce((sum, { length }) => sum + length, 0);
  const numLogprobs = numTokens * (body.n ?? 1) * (body.logprobs! + 1);
  const most = Math.floor(server.maxBufferedBytes / LOGPROB_BYTES);
  if (numLogprobs <= most) return;
  throw badRequest(
    `A stream may echo at most ${most} log-probabilities of its prompts, the request needs ${numLogprobs}`,
    { param: "logprobs" },
  );
}

/** Each prompt has its own: without a seed they must not share a random one. */
function promptSampling(server: Server, body: CompletionBody, numPromptTokens: number): SamplingParams {
  const n = body.n ?? 1;
  const made = body.best_of ?? n;
  return requestSampling(server, body, {
    n: made,
    maxTokens: maxTokens(server, numPromptTokens, {
      // Where nothing but the prompt is asked for, a token is made and left out.
      wanted: body.max_tokens === 0 ? 1 : body.max_tokens ?? null,
      fallback: DEFAULT_MAX_TOKENS,
      param: "prompt",
    }),
    logprobs: body.logprobs ?? (made > n ? 0 : null),
    logprobsParam: "logprobs",
    promptLogprobs: body.echo === true ? body.logprobs ?? null : null,
  });
}

function promptText(server: Server, prompt: string | readonly number[]): string {
  return typeof prompt === "string" ? prompt : server.tokenizer.decode(prompt, { skipSpecialTokens: false });
}

/** What a choice has when nothing but its prompt was asked for. */
const NO_OUTPUT = { text: "", tokenIds: [], logprobs: [], finishReason: "length", stopReason: null } as const;

class CompletionFormat implements ResponseFormat {
  readonly #texts: TokenTexts;
  readonly #head: ResponseHead;
  readonly #prompts: readonly (readonly number[])[];
  readonly #echoes: readonly string[] | null;
  readonly #numReturned: number;
  readonly #numLogprobs: number | null;
  readonly #numPromptLogprobs: number | null;
  readonly #hasOutput: boolean;
  readonly #withTokenIds: boolean;
  readonly #skipSpecialTokens: boolean;
  readonly #writer: ChunkWriter;
  /** By choice; its first delta makes it. */
  readonly #logprobs = new Map<number, CompletionLogprobs>();
  /** By prompt. */
  readonly #promptLogprobs = new Map<number, readonly (PromptLogprob | null)[]>();

  constructor(
    texts: TokenTexts,
    head: ResponseHead,
    body: CompletionBody,
    { prompts, echoes }: { prompts: readonly (readonly number[])[]; echoes: readonly string[] | null },
  ) {
    this.#texts = texts;
    this.#head = head;
    this.#prompts = prompts;
    this.#echoes = echoes;
    this.#numReturned = body.n ?? 1;
    this.#numLogprobs = body.logprobs ?? null;
    this.#numPromptLogprobs = body.prompt_logprobs ?? null;
    this.#hasOutput = body.max_tokens !== 0;
    this.#withTokenIds = body.return_token_ids === true;
    this.#skipSpecialTokens = body.skip_special_tokens ?? true;
    this.#writer = new ChunkWriter({
      head,
      object: "text_completion",
      includeUsage: body.stream_options?.include_usage === true,
      continuousUsage: body.stream_options?.continuous_usage_stats === true,
      numPromptTokens: prompts.reduce((sum, { length }) => sum + length, 0),
    });
  }

  promptLogprobs(promptIndex: number, logprobs: readonly (PromptLogprob | null)[]): void {
    this.#promptLogprobs.set(promptIndex, logprobs);
  }

  events(index: number, promptIndex: number, given: Delta): string {
    const delta = this.#hasOutput ? given : { ...given, ...NO_OUTPUT };
    this.#writer.count(delta);
    const isFirst = !this.#logprobs.has(index);
    const logprobs = this.#logprobsOf(index);
    const text = isFirst ? this.#echoText(promptIndex) + delta.text : delta.text;
    const hasMore = delta.tokenIds.length > 0 && (this.#numLogprobs !== null || this.#withTokenIds);
    let events = "";
    if (text !== "" || hasMore) {
      const part = this.#numLogprobs !== null && delta.logprobs
        ? JSON.stringify(logprobs.part(delta.logprobs, isFirst ? this.#echo(promptIndex) : null))
        : "null";
      const prompt = isFirst ? `,"prompt_token_ids":${JSON.stringify(this.#prompts[promptIndex])}` : "";
      const ids = this.#withTokenIds ? `,"token_ids":${JSON.stringify(delta.tokenIds)}${prompt}` : "";
      const choice = `{"index":${index},"text":${JSON.stringify(text)},"logprobs":${part},"finish_reason":null${ids}}`;
      events += this.#writer.chunk(choice);
    }
    if (delta.finishReason !== null) {
      const reasons = `"finish_reason":"${delta.finishReason}","stop_reason":${JSON.stringify(delta.stopReason)}`;
      events += this.#writer.chunk(`{"index":${index},"text":"","logprobs":null,${reasons}}`);
    }
    return events;
  }

  end(usage: Usage): string {
    return this.#writer.end(this.#usage(usage));
  }

  body(choices: readonly Choice[], usage: Usage): unknown {
    return {
      ...this.#head,
      object: "text_completion",
      choices: bestChoices(choices, this.#numReturned).map((choice) => this.#choice(choice)),
      usage: usageJson(this.#usage(usage)),
    };
  }

  #choice(made: Choice): Record<string, unknown> {
    const choice = this.#hasOutput ? made : { ...made, ...NO_OUTPUT };
    const { index, promptIndex } = choice;
    const prompt = this.#promptLogprobs.get(promptIndex) ?? [];
    return {
      index,
      text: this.#echoText(promptIndex) + choice.text,
      logprobs: this.#numLogprobs === null
        ? null
        : this.#logprobsOf(index).part(choice.logprobs, this.#echo(promptIndex)),
      finish_reason: choice.finishReason,
      stop_reason: choice.stopReason,
      ...this.#numPromptLogprobs !== null && {
        prompt_logprobs: promptLogprobsJson(this.#texts, prompt, this.#numPromptLogprobs),
      },
      ...this.#withTokenIds && { token_ids: choice.tokenIds, prompt_token_ids: this.#prompts[promptIndex] },
    };
  }

  #usage(usage: Usage): Usage {
    return this.#hasOutput ? usage : { ...usage, completionTokens: 0 };
  }

  #echoText(promptIndex: number): string {
    return this.#echoes?.[promptIndex] ?? "";
  }

  #echo(promptIndex: number): Echo | null {
    const text = this.#echoes?.[promptIndex];
    const logprobs = this.#promptLogprobs.get(promptIndex);
    if (text === undefined || logprobs === undefined) return null;
    return { text, tokenIds: this.#prompts[promptIndex]!, logprobs, numTop: this.#numLogprobs ?? 0 };
  }

  #logprobsOf(index: number): CompletionLogprobs {
    let logprobs = this.#logprobs.get(index);
    if (logprobs === undefined) {
      logprobs = new CompletionLogprobs(this.#texts, { skipSpecialTokens: this.#skipSpecialTokens });
      this.#logprobs.set(index, logprobs);
    }
    return logprobs;
  }
}

/** Of each prompt's choices the `n` best, by mean log-probability of their tokens, numbered anew. */
function bestChoices(choices: readonly Choice[], n: number): readonly Choice[] {
  const byPrompt = Map.groupBy(choices, ({ promptIndex }) => promptIndex);
  return [...byPrompt.values()].flatMap((made) => {
    if (made.length <= n) return made;
    return made.toSorted((a, b) => meanLogprob(b) - meanLogprob(a)).slice(0, n);
  }).map((choice, index) => ({ ...choice, index }));
}

function meanLogprob({ logprobs }: Choice): number {
  // One that a deadline has ended before its first token is the worst.
  if (logprobs.length === 0) return -Infinity;
  return logprobs.reduce((sum, { logprob }) => sum + logprob, 0) / logprobs.length;
}
