/**
 * `POST /v1/chat/completions`.
 *
 * @module
 */

import { Hono } from "hono";
import { renderPrompt } from "./_chat_prompt.ts";
import { ChatFormat } from "./_chat_format.ts";
import { type Endpoint, generationHandler, type Plan, responseHead } from "./_handler.ts";
import { checkNumChars, maxTokens, tokenizePrompts } from "./_prompt.ts";
import { reasoningMode } from "./_reasoning.ts";
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
  const reasoning = reasoningMode(body.separate_reasoning ?? server.separatesReasoning, text);
  const head = responseHead(server, { prefix: "chatcmpl-", requestId: body.request_id, model });
  return {
    requests: [{ id: crypto.randomUUID(), promptTokenIds, sampling, ...requestOrder(server, body) }],
    format: new ChatFormat(server.tokenTexts, head, body, { tokenIds: promptTokenIds, reasoning }),
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
