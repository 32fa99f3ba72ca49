/**
 * Encodes long texts in a Worker: a text of 250,000 characters takes a quarter of a second, for which the thread that
 * serves everybody's streams would stand still. Short texts are encoded at once, which costs less than asking.
 *
 * The Worker opens the model's tokenizer again, so it has the vocabulary a second time; it is started when the first long
 * text comes. Until it is ready, and should it fail, texts are encoded by the thread that asks.
 *
 * @module
 */

import type { LOAD_FORMATS } from "./open_model.ts";
import type { AsyncEncoder, EncodeOptions, Tokenizer } from "./types.ts";

/** What the Worker opens, its first message. */
export interface TokenizerPlace {
  /** A model's `source`. */
  readonly source: string;
  readonly loadFormat: typeof LOAD_FORMATS[number];
}

/** A text for the Worker. Texts are encoded in the order they come. */
export interface EncodeMessage {
  readonly text: string;
  readonly options: EncodeOptions;
}

/** From the Worker: whether it is ready, then one answer a text. */
export type TokenizerMessage =
  | { readonly type: "ready" }
  | { readonly type: "failed"; readonly message: string }
  | { readonly type: "encoded"; readonly ids: Int32Array<ArrayBuffer> }
  /** The text could not be encoded; so it is with the thread that asked. */
  | { readonly type: "refused" };

/** Texts up to this length are encoded at once: about two milliseconds. */
export const SHORT_TEXT = 4096;
/** Texts up to this length do not wait for others that are longer. */
const MEDIUM_TEXT = 16_384;

type State = "idle" | "starting" | "ready" | "failed";

export class BackgroundTokenizer implements AsyncEncoder, Disposable {
  readonly #tokenizer: Tokenizer;
  readonly #place: TokenizerPlace;
  readonly #warn: (message: string) => void;
  #state: State = "idle";
  #worker: Worker | null = null;
  #started = Promise.withResolvers<void>();
  /** What waits for an answer, in order; null stands for none: encode it here. */
  #open: ((ids: number[] | null) => void)[] = [];

  /** @param warn Told when the Worker fails. */
  constructor(tokenizer: Tokenizer, place: TokenizerPlace, warn: (message: string) => void = console.warn) {
    this.#tokenizer = tokenizer;
    this.#place = place;
    this.#warn = warn;
  }

  /** Starts the Worker, if nothing has; resolves when it is ready or has failed. */
  start(): Promise<void> {
    if (this.#state === "idle") this.#start();
    return this.#started.promise;
  }

  async encode(text: string, options: EncodeOptions = {}): Promise<number[]> {
    const isElsewhere = text.length > SHORT_TEXT && (text.length > MEDIUM_TEXT || this.#open.length === 0);
    const ids = isElsewhere ? await this.#ask(text, options) : null;
    return ids ?? this.#tokenizer.encode(text, options);
  }

  /** Ends the Worker; what it has not answered is encoded here. */
  [Symbol.dispose](): void {
    this.#end();
  }

  #ask(text: string, options: EncodeOptions): Promise<number[] | null> | null {
    if (this.#state !== "ready") {
      this.start();
      return null;
    }
    return new Promise((resolve) => {
      this.#open.push(resolve);
      this.#worker!.postMessage({ text, options } satisfies EncodeMessage);
    });
  }

  #start(): void {
    this.#state = "starting";
    const url = new URL("./tokenizer_worker.ts", import.meta.url);
    const worker = this.#worker = new Worker(url, { type: "module", name: "octavo-tokenizer" });
    worker.onmessage = ({ data }: MessageEvent<TokenizerMessage>) => this.#receive(data);
    worker.onerror = (event) => {
      event.preventDefault();
      this.#fail(event.message);
    };
    worker.postMessage(this.#place);
  }

  #receive(message: TokenizerMessage): void {
    if (message.type === "ready") {
      this.#state = "ready";
      this.#started.resolve();
    } else if (message.type === "failed") {
      this.#fail(message.message);
    } else {
      this.#open.shift()?.(message.type === "encoded" ? [...message.ids] : null);
    }
  }

  #fail(message: string): void {
    this.#warn(`Long prompts are tokenized by the thread that serves all: the tokenizer's Worker failed: ${message}`);
    this.#end();
  }

  #end(): void {
    this.#state = "failed";
    this.#worker?.terminate();
    this.#worker = null;
    this.#started.resolve();
    for (const answer of this.#open.splice(0)) answer(null);
  }
}
