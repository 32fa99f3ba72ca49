/**
 * How `/v1/responses` writes its answers: items (reasoning, then a message) that are opened, grow and are closed, each by
 * events of its own.
 *
 * ```
 *  created  in_progress
 *    item 0 reasoning   output_item.added  content_part.added  reasoning_text.delta ...  .done  content_part.done  output_item.done
 *    item 1 message     output_item.added  content_part.added  output_text.delta ...     .done  content_part.done  output_item.done
 *  completed
 * ```
 *
 * @module
 */

import type { Delta, Usage } from "../engine/types.ts";
import type { ResponseHead } from "./_handler.ts";
import type { TokenTexts } from "./_logprobs.ts";
import {
  countReasoningTokens,
  type ReasoningMode,
  ReasoningSplitter,
  splitPiece,
  splitReasoning,
} from "./_reasoning.ts";
import type { Choice, ResponseFormat } from "./_respond.ts";
import type { ApiError } from "./errors.ts";
import type { ResponseBody } from "./schemas/response.ts";

type ItemType = "reasoning" | "message";

/** The item that grows. */
interface OpenItem {
  readonly type: ItemType;
  readonly id: string;
  readonly index: number;
  text: string;
}

type Ending = Pick<Choice, "finishReason">;

export class ItemFormat implements ResponseFormat {
  readonly #texts: TokenTexts;
  readonly #head: ResponseHead;
  readonly #body: ResponseBody;
  readonly #reasoning: ReasoningMode;
  readonly #splitter: ReasoningSplitter | null;
  #sequenceNumber = 0;
  #open: OpenItem | null = null;
  readonly #items: Record<string, unknown>[] = [];
  readonly #tokenIds: number[] = [];
  #finishReason: string | null = null;

  constructor(texts: TokenTexts, head: ResponseHead, body: ResponseBody, reasoning: ReasoningMode) {
    this.#texts = texts;
    this.#head = head;
    this.#body = body;
    this.#reasoning = reasoning;
    this.#splitter = reasoning === "none" ? null : new ReasoningSplitter(reasoning === "begun");
  }

  promptLogprobs(): void {}

  begin(): string {
    const response = this.#response("in_progress", []);
    return this.#event("response.created", { response }) + this.#event("response.in_progress", { response });
  }

  events(_choiceIndex: number, _promptIndex: number, delta: Delta): string {
    this.#tokenIds.push(...delta.tokenIds);
    this.#finishReason = delta.finishReason;
    const { reasoning, content } = splitPiece(this.#splitter, delta.text, delta.finishReason !== null);
    return (reasoning === "" ? "" : this.#grow("reasoning", reasoning)) +
      (content === "" ? "" : this.#grow("message", content));
  }

  end(usage: Usage): string {
    const hasMessage = this.#open?.type === "message";
    const ending = { finishReason: this.#finishReason };
    const last = this.#close(hasMessage ? statusOf(ending) : "completed") +
      (hasMessage ? "" : this.#openItem("message") + this.#close(statusOf(ending)));
    const response = this.#response(statusOf(ending), this.#items, this.#usage(usage, this.#tokenIds));
    return last + this.#event(`response.${statusOf(ending)}`, { response });
  }

  error({ message, options: { code = null, param = null } }: ApiError): string {
    return this.#event("error", { code, message, param });
  }

  body([choice]: readonly Choice[], usage: Usage): unknown {
    const { text, tokenIds } = choice!;
    const parts = this.#reasoning === "none"
      ? { reasoning: "", content: text }
      : splitReasoning(text, this.#reasoning === "begun");
    const status = statusOf(choice!);
    const reasoning = parts.reasoning === ""
      ? []
      : [item("reasoning", newId("reasoning"), parts.reasoning, "completed")];
    const output = [...reasoning, item("message", newId("message"), parts.content, status)];
    return this.#response(status, output, this.#usage(usage, tokenIds));
  }

  /** Adds text to the item of a type, which closes the one before it. */
  #grow(type: ItemType, text: string): string {
    const before = this.#open?.type === type ? "" : this.#close("completed") + this.#openItem(type);
    const open = this.#open!;
    open.text += text;
    return before + this.#event(`${textEvent(type)}.delta`, { ...place(open), ...logprobs(type), delta: text });
  }

  #openItem(type: ItemType): string {
    const open = this.#open = { type, id: newId(type), index: this.#items.length, text: "" };
    const { content: _, ...empty } = item(type, open.id, "", "in_progress");
    return this.#event("response.output_item.added", { output_index: open.index, item: { ...empty, content: [] } }) +
      this.#event("response.content_part.added", { ...place(open), part: part(type, "") });
  }

  #close(status: string): string {
    const open = this.#open;
    if (open === null) return "";
    this.#open = null;
    const { type, id, index, text } = open;
    const closed = item(type, id, text, status);
    this.#items.push(closed);
    return this.#event(`${textEvent(type)}.done`, { ...place(open), ...logprobs(type), text }) +
      this.#event("response.content_part.done", { ...place(open), part: part(type, text) }) +
      this.#event("response.output_item.done", { output_index: index, item: closed });
  }

  #event(type: string, fields: Record<string, unknown>): string {
    const data = JSON.stringify({ type, sequence_number: this.#sequenceNumber++, ...fields });
    return `event: ${type}\ndata: ${data}\n\n`;
  }

  #response(status: string, output: readonly unknown[], usage: unknown = null): Record<string, unknown> {
    const body = this.#body;
    return {
      id: this.#head.id,
      object: "response",
      created_at: this.#head.created,
      model: this.#head.model,
      status,
      error: null,
      incomplete_details: status === "incomplete" ? { reason: "max_output_tokens" } : null,
      output,
      usage,
      instructions: body.instructions ?? null,
      max_output_tokens: body.max_output_tokens ?? null,
      metadata: body.metadata ?? {},
      temperature: body.temperature ?? null,
      top_p: body.top_p ?? null,
      text: { format: { type: "text" } },
      truncation: "disabled",
      previous_response_id: null,
      store: false,
      background: false,
      tools: [],
      tool_choice: "none",
      parallel_tool_calls: false,
    };
  }

  #usage(usage: Usage, tokenIds: readonly number[]): Record<string, unknown> {
    const { promptTokens, completionTokens, cachedTokens } = usage;
    const reasoningTokens = this.#reasoning === "none"
      ? 0
      : countReasoningTokens(tokenIds.map((id) => this.#texts.text(id)), this.#reasoning === "begun");
    return {
      input_tokens: promptTokens,
      input_tokens_details: { cached_tokens: cachedTokens },
      output_tokens: completionTokens,
      output_tokens_details: { reasoning_tokens: reasoningTokens },
      total_tokens: promptTokens + completionTokens,
    };
  }
}

function statusOf({ finishReason }: Ending): "completed" | "incomplete" {
  return finishReason === "length" ? "incomplete" : "completed";
}

function newId(type: ItemType): string {
  return (type === "reasoning" ? "rs_" : "msg_") + crypto.randomUUID().replaceAll("-", "");
}

function part(type: ItemType, text: string): Record<string, unknown> {
  return type === "reasoning"
    ? { type: "reasoning_text", text }
    : { type: "output_text", text, annotations: [], logprobs: [] };
}

function item(type: ItemType, id: string, text: string, status: string): Record<string, unknown> {
  const head = type === "reasoning" ? { type, id, summary: [] } : { type, id, role: "assistant" };
  return { ...head, status, content: [part(type, text)] };
}

function textEvent(type: ItemType): string {
  return type === "reasoning" ? "response.reasoning_text" : "response.output_text";
}

function place({ id, index }: OpenItem): Record<string, unknown> {
  return { item_id: id, output_index: index, content_index: 0 };
}

/** The events of a message's text have a place for them. */
function logprobs(type: ItemType): Record<string, unknown> {
  return type === "message" ? { logprobs: [] } : {};
}
