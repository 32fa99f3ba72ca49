/**
 * A one-way queue into a thread that works in a synchronous loop and never returns to its event loop.
 *
 * Messages travel through a `MessagePort`; a shared counter tells the receiver, which sleeps on it when it has
 * nothing to do, that there are more. (A port with an `onmessage` handler as well would deliver out of order: the
 * handler holds one message while the loop takes the next.)
 *
 * @module
 */

import { type MessagePort as NodeMessagePort, receiveMessageOnPort } from "node:worker_threads";

/** What crosses to the other thread, once, to make the receiving end. */
export interface MailboxEnd {
  readonly port: MessagePort;
  readonly signal: SharedArrayBuffer;
}

/** The sending end. */
export class MailboxSender<M> {
  /** To be given, with its port transferred, to a {@linkcode MailboxReceiver}. */
  readonly receivingEnd: MailboxEnd;
  readonly #port: MessagePort;
  readonly #signal: Int32Array;

  constructor() {
    const { port1, port2 } = new MessageChannel();
    this.#port = port1;
    this.receivingEnd = { port: port2, signal: new SharedArrayBuffer(4) };
    this.#signal = new Int32Array(this.receivingEnd.signal);
  }

  post(message: M): void {
    this.#port.postMessage(message);
    Atomics.add(this.#signal, 0, 1);
    Atomics.notify(this.#signal, 0);
  }

  close(): void {
    this.#port.close();
  }
}

/** The receiving end; of one thread only. */
export class MailboxReceiver<M> {
  readonly #port: MessagePort;
  readonly #signal: Int32Array;
  #seen = 0;

  constructor(end: MailboxEnd) {
    this.#port = end.port;
    this.#signal = new Int32Array(end.signal);
  }

  /** The next message, or undefined when none has come. */
  receive(): M | undefined {
    this.#seen = Atomics.load(this.#signal, 0);
    return receiveMessageOnPort(this.#port as unknown as NodeMessagePort)?.message;
  }

  /** Sleeps until a message may have come since the last `receive()`; wakes now and then so that a Worker can be
   * terminated. */
  wait(): void {
    Atomics.wait(this.#signal, 0, this.#seen, 1000);
  }

  close(): void {
    this.#port.close();
  }
}
