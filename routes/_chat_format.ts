/**
 * How `/v1/chat/completions` writes its answers.
 *
 * @module
 */

import type { Delta, PromptLogprob, Usage } from "../engine/types.ts";
import { ChunkWriter } from "./_chunk_writer.ts";
import type { ResponseHead } from "./_handler.ts";
import { chatLogprobs, promptLogprobsJson, type TokenTexts } from "./_logprobs.ts";
import { type ReasoningMode, ReasoningSplitter, splitPiece, splitReasoning } from "./_reasoning.ts";
import { type Choice, type ResponseFormat, usageJson } from "./_respond.ts";
import type { ChatCompletionBody } from "./schemas/chat_completion.ts";

/** The prompt that is answered. */
export interface ChatPrompt {
  readonly tokenIds: readonly number[];
  /** Whether reasoning is parted from the answer, and if so, whether the prompt has begun it. */
  readonly reasoning: ReasoningMode;
}

export class ChatFormat implements ResponseFormat {
  readonly #texts: TokenTexts;
  readonly #head: ResponseHead;
  readonly #prompt: ChatPrompt;
  readonly #withLogprobs: boolean;
  readonly #numPromptLogprobs: number | null;
  readonly #withTokenIds: boolean;
  readonly #writer: ChunkWriter;
  /** By choice; its first delta makes it. */
  readonly #splitters = new Map<number, ReasoningSplitter | null>();
  #promptLogprobs: readonly (PromptLogprob | null)[] = [];

  constructor(texts: TokenTexts, head: ResponseHead, body: ChatCompletionBody, prompt: ChatPrompt) {
    this.#texts = texts;
    this.#head = head;
    this.#prompt = prompt;
    this.#withLogprobs = body.logprobs === true;
    this.#numPromptLogprobs = body.prompt_logprobs ?? null;
    this.#withTokenIds = body.return_token_ids === true;
    this.#writer = new ChunkWriter({
      head,
      object: "chat.completion.chunk",
      includeUsage: body.stream_options?.include_usage === true,
      continuousUsage: body.stream_options?.continuous_usage_stats === true,
      numPromptTokens: prompt.tokenIds.length,
    });
  }

  promptLogprobs(_promptIndex: number, logprobs: readonly (PromptLogprob | null)[]): void {
    this.#promptLogprobs = logprobs;
  }

  /** The role in a choice's first chunk, the finish reason in its last, the text between: clients rely on it. */
  events(index: number, _promptIndex: number, delta: Delta): string {
    let events = "";
    if (!this.#splitters.has(index)) {
      const extra = this.#withTokenIds && this.#splitters.size === 0
        ? `,"prompt_token_ids":${JSON.stringify(this.#prompt.tokenIds)}`
        : "";
      const { reasoning } = this.#prompt;
      this.#splitters.set(index, reasoning === "none" ? null : new ReasoningSplitter(reasoning === "begun"));
      events += this.#chunk(index, '{"role":"assistant","content":""}', extra);
    }
    this.#writer.count(delta);
    events += this.#textEvents(index, delta);
    if (delta.finishReason !== null) {
      const reasons = `"finish_reason":"${delta.finishReason}","stop_reason":${JSON.stringify(delta.stopReason)}`;
      events += this.#writer.chunk(`{"index":${index},"delta":{},"logprobs":null,${reasons}}`);
    }
    return events;
  }

  /** One event for the reasoning and one for the content; what belongs to the tokens is in the first. */
  #textEvents(index: number, delta: Delta): string {
    const splitter = this.#splitters.get(index) ?? null;
    const { reasoning, content } = splitPiece(splitter, delta.text, delta.finishReason !== null);
    const hasMore = delta.tokenIds.length > 0 && (this.#withLogprobs || this.#withTokenIds);
    const logprobs = delta.logprobs === null ? "null" : JSON.stringify(chatLogprobs(this.#texts, delta.logprobs));
    const tokenIds = this.#withTokenIds ? `,"token_ids":${JSON.stringify(delta.tokenIds)}` : "";
    const first = `"logprobs":${logprobs},"finish_reason":null${tokenIds}`;
    const choice = (text: string, rest: string) => this.#writer.chunk(`{"index":${index},"delta":${text},${rest}}`);
    if (reasoning === "") {
      return content === "" && !hasMore ? "" : choice(`{"content":${JSON.stringify(content)}}`, first);
    }
    const events = choice(`{"reasoning_content":${JSON.stringify(reasoning)}}`, first);
    if (content === "") return events;
    return events + choice(`{"content":${JSON.stringify(content)}}`, '"logprobs":null,"finish_reason":null');
  }

  end(usage: Usage): string {
    return this.#writer.end(usage);
  }

  body(choices: readonly Choice[], usage: Usage): unknown {
    return {
      ...this.#head,
      object: "chat.completion",
      choices: choices.map((choice) => ({
        index: choice.index,
        message: this.#message(choice.text),
        logprobs: this.#withLogprobs ? chatLogprobs(this.#texts, choice.logprobs) : null,
        finish_reason: choice.finishReason,
        stop_reason: choice.stopReason,
        ...this.#withTokenIds && { token_ids: choice.tokenIds },
      })),
      usage: usageJson(usage),
      ...this.#numPromptLogprobs !== null && {
        prompt_logprobs: promptLogprobsJson(this.#texts, this.#promptLogprobs, this.#numPromptLogprobs),
      },
      ...this.#withTokenIds && { prompt_token_ids: this.#prompt.tokenIds },
    };
  }

  #message(text: string): Record<string, unknown> {
    const { reasoning: mode } = this.#prompt;
    if (mode === "none") return { role: "assistant", content: text, refusal: null };
    const { reasoning, content } = splitReasoning(text, mode === "begun");
    return { role: "assistant", content, refusal: null, ...reasoning !== "" && { reasoning_content: reasoning } };
  }

  #chunk(index: number, delta: string, extra: string): string {
    return this.#writer.chunk(`{"index":${index},"delta":${delta},"logprobs":null,"finish_reason":null}`, extra);
  }
}
