/**
 * `POST /v1/chat/completions`.
 *
 * @module
 */

import { Hono } from "hono";
import type { Delta, PromptLogprob, Usage } from "../engine/types.ts";
import { renderPrompt } from "./_chat_prompt.ts";
import { ChunkWriter } from "./_chunk_writer.ts";
import { type Endpoint, generationHandler, type Plan, type ResponseHead, responseHead } from "./_handler.ts";
import { chatLogprobs, promptLogprobsJson, type TokenTexts } from "./_logprobs.ts";
import { checkNumChars, maxTokens, tokenizePrompts } from "./_prompt.ts";
import { type Choice, type ResponseFormat, usageJson } from "./_respond.ts";
import { checkPromptLogprobs, requestOrder, requestSampling } from "./_sampling.ts";
import type { Server } from "./_server.ts";
import { badRequest } from "./errors.ts";
import { servedName } from "./models.ts";
import { type ChatCompletionBody, chatCompletionBody } from "./schemas/chat_completion.ts";
import { CHAT_REFUSED_FIELDS } from "./schemas/refused_fields.ts";

/** The chat route. */
export function chatCompletionRoutes(server: Server): Hono {
  const endpoint: Endpoint<typeof chatCompletionBody> = {
    schema: chatCompletionBody,
    refused: CHAT_REFUSED_FIELDS,
    plan: planChat,
  };
  return new Hono().post("/v1/chat/completions", generationHandler(server, endpoint));
}

async function planChat(server: Server, body: ChatCompletionBody): Promise<Plan> {
  const model = servedName(server, body.model);
  if ((body.top_logprobs ?? 0) > 0 && body.logprobs !== true) {
    throw badRequest('"top_logprobs" needs "logprobs": true', { param: "top_logprobs" });
  }
  checkPromptLogprobs(body);
  const text = renderPrompt(server, body);
  const [tokenIds] = await tokenizePrompts(server, [text], { param: "messages", addSpecialTokens: false });
  const promptTokenIds = tokenIds!;
  const prediction = await tokenizePrediction(server, body);
  const sampling = requestSampling(server, body, {
    n: body.n ?? 1,
    maxTokens: maxTokens(server, promptTokenIds.length, {
      wanted: body.max_completion_tokens ?? body.max_tokens ?? null,
      fallback: Infinity,
      param: "messages",
    }),
    logprobs: body.logprobs === true ? body.top_logprobs ?? 0 : null,
    logprobsParam: "top_logprobs",
    prediction,
  });
  const head = responseHead(server, { prefix: "chatcmpl-", requestId: body.request_id, model });
  return {
    requests: [{ id: crypto.randomUUID(), promptTokenIds, sampling, ...requestOrder(server, body) }],
    format: new ChatFormat(server.tokenTexts, head, body, promptTokenIds),
    isStream: body.stream === true,
  };
}

/** Null for none. Special tokens written in it are text: the output has no others but those that end it. */
async function tokenizePrediction(server: Server, { prediction }: ChatCompletionBody): Promise<number[] | null> {
  if (prediction === undefined || prediction === null) return null;
  const { content } = prediction;
  const text = typeof content === "string" ? content : content.map(({ text }) => text).join("");
  checkNumChars(server, text.length, "prediction", "prediction");
  const options = { addSpecialTokens: false, parseSpecialTokens: false };
  return await server.promptEncoder.encode(text.toWellFormed(), options);
}

class ChatFormat implements ResponseFormat {
  readonly #texts: TokenTexts;
  readonly #head: ResponseHead;
  readonly #promptTokenIds: readonly number[];
  readonly #withLogprobs: boolean;
  readonly #numPromptLogprobs: number | null;
  readonly #withTokenIds: boolean;
  readonly #writer: ChunkWriter;
  readonly #begun = new Set<number>();
  #promptLogprobs: readonly (PromptLogprob | null)[] = [];

  constructor(texts: TokenTexts, head: ResponseHead, body: ChatCompletionBody, promptTokenIds: readonly number[]) {
    this.#texts = texts;
    this.#head = head;
    this.#promptTokenIds = promptTokenIds;
    this.#withLogprobs = body.logprobs === true;
    this.#numPromptLogprobs = body.prompt_logprobs ?? null;
    this.#withTokenIds = body.return_token_ids === true;
    this.#writer = new ChunkWriter({
      head,
      object: "chat.completion.chunk",
      includeUsage: body.stream_options?.include_usage === true,
      continuousUsage: body.stream_options?.continuous_usage_stats === true,
      numPromptTokens: promptTokenIds.length,
    });
  }

  promptLogprobs(_promptIndex: number, logprobs: readonly (PromptLogprob | null)[]): void {
    this.#promptLogprobs = logprobs;
  }

  /** The role in a choice's first chunk, the finish reason in its last, the text between: clients rely on it. */
  events(index: number, _promptIndex: number, delta: Delta): string {
    let events = "";
    if (!this.#begun.has(index)) {
      const extra = this.#withTokenIds && this.#begun.size === 0
        ? `,"prompt_token_ids":${JSON.stringify(this.#promptTokenIds)}`
        : "";
      this.#begun.add(index);
      events += this.#chunk(index, '{"role":"assistant","content":""}', extra);
    }
    this.#writer.count(delta);
    const hasMore = delta.tokenIds.length > 0 && (this.#withLogprobs || this.#withTokenIds);
    if (delta.text !== "" || hasMore) {
      const logprobs = delta.logprobs === null ? "null" : JSON.stringify(chatLogprobs(this.#texts, delta.logprobs));
      const tokenIds = this.#withTokenIds ? `,"token_ids":${JSON.stringify(delta.tokenIds)}` : "";
      const choice = `{"index":${index},"delta":{"content":${JSON.stringify(delta.text)}},"logprobs":${logprobs}` +
        `,"finish_reason":null${tokenIds}}`;
      events += this.#writer.chunk(choice);
    }
    if (delta.finishReason !== null) {
      const reasons = `"finish_reason":"${delta.finishReason}","stop_reason":${JSON.stringify(delta.stopReason)}`;
      events += this.#writer.chunk(`{"index":${index},"delta":{},"logprobs":null,${reasons}}`);
    }
    return events;
  }

  usageEvent(usage: Usage): string {
    return this.#writer.usageEvent(usage);
  }

  body(choices: readonly Choice[], usage: Usage): unknown {
    return {
      ...this.#head,
      object: "chat.completion",
      choices: choices.map((choice) => ({
        index: choice.index,
        message: { role: "assistant", content: choice.text, refusal: null },
        logprobs: this.#withLogprobs ? chatLogprobs(this.#texts, choice.logprobs) : null,
        finish_reason: choice.finishReason,
        stop_reason: choice.stopReason,
        ...this.#withTokenIds && { token_ids: choice.tokenIds },
      })),
      usage: usageJson(usage),
      ...this.#numPromptLogprobs !== null && {
        prompt_logprobs: promptLogprobsJson(this.#texts, this.#promptLogprobs, this.#numPromptLogprobs),
      },
      ...this.#withTokenIds && { prompt_token_ids: this.#promptTokenIds },
    };
  }

  #chunk(index: number, delta: string, extra: string): string {
    return this.#writer.chunk(`{"index":${index},"delta":${delta},"logprobs":null,"finish_reason":null}`, extra);
  }
}
