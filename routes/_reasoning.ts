/**
 * Parts what a model thinks aloud from what it answers: `<think>...</think>` at an answer's beginning, as Qwen3, DeepSeek-R1
 * and others write it, whatever the pieces are in which the text comes.
 *
 * ```
 *  text       <think>\nHm, 2 + 2 ...\n</think>\n\nFour.        or, where the prompt ends with <think>, from Hm on
 *  reasoning          Hm, 2 + 2 ...
 *  content                                      Four.
 * ```
 * Held back is only what may still become a tag, or be white space beside one.
 *
 * @module
 */

const OPEN = "<think>";
const CLOSE = "</think>";
/** White space at an end that may be one of the reasoning; beyond that it is let go. */
const MAX_HELD_SPACE = 64;

/** What a piece of text made certain. */
export interface ReasonedText {
  readonly reasoning: string;
  readonly content: string;
}

/** Before the first tag; in the reasoning, before its first letter and after; in the content, before and after. */
type State = "open" | "reasoningStart" | "reasoning" | "contentStart" | "content";

export class ReasoningSplitter {
  #state: State;
  #held = "";

  /** Whether there is a beginning of reasoning. */
  hasReasoned: boolean;

  /** @param isBegun The prompt has begun the reasoning. */
  constructor(isBegun: boolean) {
    this.#state = isBegun ? "reasoningStart" : "open";
    this.hasReasoned = isBegun;
  }

  push(text: string): ReasonedText {
    if (this.#state === "content") return { reasoning: "", content: text };
    this.#held += text;
    if (this.#state === "open" && !this.#readOpening()) return NOTHING;
    let reasoning = "";
    if (this.#state === "reasoningStart") this.#skipSpace("reasoning");
    if (this.#state === "reasoning") reasoning = this.#readReasoning();
    if (this.#state === "contentStart") this.#skipSpace("content");
    return { reasoning, content: this.#readContent() };
  }

  /** What was held back: no more text follows. */
  flush(): ReasonedText {
    const rest = this.#take(this.#held.length);
    switch (this.#state) {
      case "reasoningStart":
      case "reasoning":
        return { reasoning: rest.trimEnd(), content: "" };
      case "contentStart":
        return NOTHING;
      default:
        return { reasoning: "", content: rest };
    }
  }

  /** False: it is not certain yet whether there is reasoning. */
  #readOpening(): boolean {
    const text = this.#held.trimStart();
    if (text.length < OPEN.length && OPEN.startsWith(text)) return false;
    const hasOpening = text.startsWith(OPEN);
    if (hasOpening) this.#held = text.slice(OPEN.length);
    this.hasReasoned = hasOpening;
    this.#state = hasOpening ? "reasoningStart" : "content";
    return true;
  }

  #skipSpace(next: State): void {
    this.#held = this.#held.trimStart();
    if (this.#held !== "") this.#state = next;
  }

  #readReasoning(): string {
    const end = this.#held.indexOf(CLOSE);
    if (end < 0) return this.#take(certainLength(this.#held));
    const reasoning = this.#take(end).trimEnd();
    this.#held = this.#held.slice(CLOSE.length);
    this.#state = "contentStart";
    return reasoning;
  }

  #readContent(): string {
    return this.#state === "content" ? this.#take(this.#held.length) : "";
  }

  #take(length: number): string {
    const taken = this.#held.slice(0, length);
    this.#held = this.#held.slice(length);
    return taken;
  }
}

const NOTHING: ReasonedText = { reasoning: "", content: "" };

/** How much of reasoning is neither the beginning of its end nor white space before that. */
function certainLength(text: string): number {
  let length = text.length;
  for (let i = Math.min(CLOSE.length - 1, text.length); i > 0; i--) {
    if (!text.endsWith(CLOSE.slice(0, i))) continue;
    length -= i;
    break;
  }
  const least = Math.max(0, length - MAX_HELD_SPACE);
  while (length > least && text[length - 1]!.trim() === "") length--;
  return length;
}

/** A piece of text in parts, with what was held back if it is the last. @param splitter Null: all of it is content. */
export function splitPiece(splitter: ReasoningSplitter | null, text: string, isLast: boolean): ReasonedText {
  if (splitter === null) return { reasoning: "", content: text };
  const { reasoning, content } = splitter.push(text);
  if (!isLast) return { reasoning, content };
  const rest = splitter.flush();
  return { reasoning: reasoning + rest.reasoning, content: content + rest.content };
}

/** A whole text in parts. */
export function splitReasoning(text: string, isBegun: boolean): ReasonedText {
  return splitPiece(new ReasoningSplitter(isBegun), text, true);
}

/** How many of an answer's tokens, given by their texts, come before its content. */
export function countReasoningTokens(texts: readonly string[], isBegun: boolean): number {
  const splitter = new ReasoningSplitter(isBegun);
  for (let i = 0; i < texts.length; i++) {
    const isLast = splitter.push(texts[i]!).content !== "";
    if (isLast) return splitter.hasReasoned ? i : 0;
  }
  return splitter.hasReasoned ? texts.length : 0;
}

/** What is split off an answer: nothing, or reasoning that may come first or that the prompt has begun. */
export type ReasoningMode = "none" | "possible" | "begun";

/** @param prompt The answer's; it may end with the beginning of reasoning. */
export function reasoningMode(separates: boolean, prompt: string): ReasoningMode {
  if (!separates) return "none";
  return prompt.trimEnd().endsWith(OPEN) ? "begun" : "possible";
}
