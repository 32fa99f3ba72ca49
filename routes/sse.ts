/**
 * Server-sent events for one request. Events are gathered and handed over once per step as one piece of encoded bytes:
 * half the cost of a helper that awaits each event. A reader that is gone or too slow ends its own stream and nothing
 * else.
 *
 * @module
 */

/** Why a stream ended before its writer closed it. */
export type CutReason = "disconnected" | "slow";

/** Options of {@linkcode EventStream}. */
export interface EventStreamOptions {
  /** Bytes that may wait for the reader; beyond that it is cut off. */
  readonly maxBufferedBytes: number;
  /** A comment is sent when nothing was for this long, in milliseconds: proxies drop silent connections. */
  readonly keepAliveMs: number;
  /** Called at most once, when the reader is gone or was cut off; not after `close()`. */
  readonly onCut: (reason: CutReason) => void;
}

/** Headers of a stream's response; the last one keeps nginx from holding events back. */
export const EVENT_STREAM_HEADERS: Readonly<Record<string, string>> = {
  "content-type": "text/event-stream; charset=utf-8",
  "cache-control": "no-cache",
  "x-accel-buffering": "no",
};

/** The event that ends a whole stream. */
export const DONE_EVENT = "data: [DONE]\n\n";

const KEEP_ALIVE = ": keep-alive\n\n";
const encoder = new TextEncoder();

/** An event with a JSON value as its data. */
export function dataEvent(value: unknown): string {
  return `data: ${JSON.stringify(value)}\n\n`;
}

/**
 * A response body of server-sent events.
 *
 * What is sent while the last piece has not been taken yet waits as text and goes out as one piece: a connection, or a
 * server, that falls behind has fewer and larger pieces to handle, not a longer queue of them.
 */
export class EventStream {
  readonly body: ReadableStream<Uint8Array>;
  readonly #options: EventStreamOptions;
  readonly #timer: ReturnType<typeof setInterval>;
  #controller!: ReadableStreamDefaultController<Uint8Array>;
  #pending = "";
  /** The last piece has been taken. */
  #isWanted = false;
  #numUnreadBytes = 0;
  #isFlushQueued = false;
  #wasActive = false;
  #isOver = false;

  constructor(options: EventStreamOptions) {
    this.#options = options;
    this.body = new ReadableStream<Uint8Array>({
      start: (controller) => {
        this.#controller = controller;
      },
      pull: () => this.#pull(),
      cancel: () => this.#cut("disconnected"),
    }, { highWaterMark: 1 });
    this.#timer = setInterval(() => this.#keepAlive(), options.keepAliveMs);
  }

  /**
   * Adds complete events. All that is added in one turn of the event loop (one step's message from the engine) goes
   * out together.
   */
  send(events: string): void {
    if (this.#isOver || events === "") return;
    this.#wasActive = true;
    this.#pending += events;
    if (this.#isWanted) this.#queueFlush();
    // A UTF-16 unit of the text is at least a byte, and at most three.
    else if (this.#numUnreadBytes + this.#pending.length > this.#options.maxBufferedBytes) {
      this.#controller.error(new Error(`Reader left more than ${this.#options.maxBufferedBytes} bytes unread`));
      this.#cut("slow");
    }
  }

  /** Sends what is pending and ends the stream. */
  close(): void {
    if (this.#isOver) return;
    this.#flush();
    this.#finish();
    this.#controller.close();
  }

  /** The last piece was taken, or nothing was sent yet. */
  #pull(): void {
    this.#isWanted = true;
    this.#numUnreadBytes = 0;
    if (this.#pending !== "") this.#queueFlush();
  }

  #queueFlush(): void {
    if (this.#isFlushQueued) return;
    this.#isFlushQueued = true;
    queueMicrotask(() => {
      this.#isFlushQueued = false;
      if (!this.#isOver) this.#flush();
    });
  }

  #flush(): void {
    if (this.#pending === "") return;
    const bytes = encoder.encode(this.#pending);
    this.#pending = "";
    this.#isWanted = false;
    this.#numUnreadBytes = bytes.byteLength;
    // Asks for more at once where a reader is waiting.
    this.#controller.enqueue(bytes);
  }

  #keepAlive(): void {
    if (!this.#wasActive) this.send(KEEP_ALIVE);
    this.#wasActive = false;
  }

  #cut(reason: CutReason): void {
    if (this.#isOver) return;
    this.#finish();
    this.#options.onCut(reason);
  }

  #finish(): void {
    this.#isOver = true;
    this.#pending = "";
    clearInterval(this.#timer);
  }
}
