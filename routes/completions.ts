/**
 * `POST /v1/completions`.
 *
 * @module
 */

import { Hono } from "hono";
import type { Delta, SamplingParams, Usage } from "../engine/types.ts";
import { ChunkWriter } from "./_chunk_writer.ts";
import { type Endpoint, generationHandler, type Plan, type ResponseHead, responseHead } from "./_handler.ts";
import { CompletionLogprobs, type TokenTexts } from "./_logprobs.ts";
import { maxTokens, tokenizePrompts } from "./_prompt.ts";
import { type Choice, type ResponseFormat, usageJson } from "./_respond.ts";
import { requestOrder, requestSampling } from "./_sampling.ts";
import type { Server } from "./_server.ts";
import { badRequest } from "./errors.ts";
import { servedName } from "./models.ts";
import { type CompletionBody, completionBody, DEFAULT_MAX_TOKENS } from "./schemas/completion.ts";
import { COMPLETION_REFUSED_FIELDS } from "./schemas/refused_fields.ts";

/** Most choices of one request: prompts times `n`. */
export const MAX_CHOICES = 1024;

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
  if (body.echo === true && (body.logprobs ?? null) !== null) {
    throw badRequest('"echo" with "logprobs" (log-probabilities of the prompt) is not supported yet', {
      param: "logprobs",
      code: "unsupported_parameter",
    });
  }
}

/** Each prompt has its own: without a seed they must not share a random one. */
function promptSampling(server: Server, body: CompletionBody, numPromptTokens: number): SamplingParams {
  const n = body.n ?? 1;
  const made = body.best_of ?? n;
  return requestSampling(server, body, {
    n: made,
    maxTokens: maxTokens(server, numPromptTokens, {
      wanted: body.max_tokens ?? null,
      fallback: DEFAULT_MAX_TOKENS,
      param: "prompt",
    }),
    logprobs: body.logprobs ?? (made > n ? 0 : null),
    logprobsParam: "logprobs",
  });
}

function promptText(server: Server, prompt: string | readonly number[]): string {
  return typeof prompt === "string" ? prompt : server.tokenizer.decode(prompt, { skipSpecialTokens: false });
}

class CompletionFormat implements ResponseFormat {
  readonly #texts: TokenTexts;
  readonly #head: ResponseHead;
  readonly #prompts: readonly (readonly number[])[];
  readonly #echoes: readonly string[] | null;
  readonly #numReturned: number;
  readonly #withLogprobs: boolean;
  readonly #withTokenIds: boolean;
  readonly #skipSpecialTokens: boolean;
  readonly #writer: ChunkWriter;
  /** By choice; its first delta makes it. */
  readonly #logprobs = new Map<number, CompletionLogprobs>();

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
    this.#withLogprobs = (body.logprobs ?? null) !== null;
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

  events(index: number, promptIndex: number, delta: Delta): string {
    this.#writer.count(delta);
    const isFirst = !this.#logprobs.has(index);
    const logprobs = this.#logprobsOf(index);
    const text = isFirst ? this.#echo(promptIndex) + delta.text : delta.text;
    const hasMore = delta.tokenIds.length > 0 && (this.#withLogprobs || this.#withTokenIds);
    let events = "";
    if (text !== "" || hasMore) {
      const part = this.#withLogprobs && delta.logprobs ? JSON.stringify(logprobs.part(delta.logprobs)) : "null";
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

  usageEvent(usage: Usage): string {
    return this.#writer.usageEvent(usage);
  }

  body(choices: readonly Choice[], usage: Usage): unknown {
    return {
      ...this.#head,
      object: "text_completion",
      choices: bestChoices(choices, this.#numReturned).map((choice) => ({
        index: choice.index,
        text: this.#echo(choice.promptIndex) + choice.text,
        logprobs: this.#withLogprobs ? this.#logprobsOf(choice.index).part(choice.logprobs) : null,
        finish_reason: choice.finishReason,
        stop_reason: choice.stopReason,
        ...this.#withTokenIds && { token_ids: choice.tokenIds, prompt_token_ids: this.#prompts[choice.promptIndex] },
      })),
      usage: usageJson(usage),
    };
  }

  #echo(promptIndex: number): string {
    return this.#echoes?.[promptIndex] ?? "";
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
