/**
 * `POST /v1/responses`: OpenAI's Responses interface, as far as it keeps nothing: texts in, text out, streamed or not.
 *
 * @module
 */

import { Hono } from "hono";
import { contentText, renderPrompt } from "./_chat_prompt.ts";
import { type Endpoint, generationHandler, type Plan, responseHead } from "./_handler.ts";
import { maxTokens, tokenizePrompts } from "./_prompt.ts";
import { reasoningMode } from "./_reasoning.ts";
import { ItemFormat } from "./_item_format.ts";
import { requestOrder, requestSampling } from "./_sampling.ts";
import type { Server } from "./_server.ts";
import { badRequest } from "./errors.ts";
import { servedName } from "./models.ts";
import type { ChatCompletionBody } from "./schemas/chat_completion.ts";
import { RESPONSE_REFUSED_FIELDS } from "./schemas/refused_fields.ts";
import { type ResponseBody, responseBody } from "./schemas/response.ts";

/** The Responses route. */
export function responseRoutes(server: Server): Hono {
  const endpoint: Endpoint<typeof responseBody> = {
    schema: responseBody,
    refused: RESPONSE_REFUSED_FIELDS,
    plan: planResponse,
  };
  return new Hono().post("/v1/responses", generationHandler(server, endpoint));
}

async function planResponse(server: Server, body: ResponseBody): Promise<Plan> {
  const model = servedName(server, body.model);
  const { chat_template_kwargs } = body;
  const text = renderPrompt(server, { messages: messagesOf(body), chat_template_kwargs }, "input");
  const [tokenIds] = await tokenizePrompts(server, [text], { param: "input", addSpecialTokens: false });
  const promptTokenIds = tokenIds!;
  const sampling = requestSampling(server, body, {
    n: 1,
    maxTokens: maxTokens(server, promptTokenIds.length, {
      wanted: body.max_output_tokens ?? null,
      fallback: Infinity,
      param: "input",
    }),
    logprobs: null,
    logprobsParam: "top_logprobs",
  });
  const reasoning = reasoningMode(body.separate_reasoning ?? server.separatesReasoning, text);
  const head = responseHead(server, { prefix: "resp_", requestId: body.request_id, model });
  return {
    requests: [{ id: crypto.randomUUID(), promptTokenIds, sampling, ...requestOrder(server, body) }],
    format: new ItemFormat(server.tokenTexts, head, body, reasoning),
    isStream: body.stream === true,
  };
}

/** @throws {ApiError} 400: the input has reasoning alone. */
function messagesOf({ input, instructions }: ResponseBody): ChatCompletionBody["messages"] {
  const given = typeof input === "string" ? [{ role: "user" as const, content: input }] : input;
  const messages = given.flatMap((one) => "role" in one ? [{ role: one.role, content: contentText(one.content) }] : []);
  if (messages.length === 0) {
    throw badRequest('Invalid "input": expected a message, received reasoning alone', { param: "input" });
  }
  return (instructions ?? null) === null ? messages : [{ role: "system", content: instructions! }, ...messages];
}
