/** An engine's Worker on the stub of `_stub_loop.ts`: the real loop, mailbox and messages. */

import { Counters } from "../engine/counters.ts";
import { type MailboxEnd, MailboxReceiver } from "../engine/mailbox.ts";
import type { EngineMessage, WorkerMessage } from "../engine/messages.ts";
import { runWorkerLoop } from "../engine/worker_loop.ts";
import { stubLoop } from "./_stub_loop.ts";

export interface StubStart {
  readonly mailbox: MailboxEnd;
  readonly counters: SharedArrayBuffer;
  readonly maxNumSeqs: number;
  readonly stepMs: number;
}

declare const self: {
  onmessage: ((event: MessageEvent<StubStart>) => void) | null;
  postMessage(message: WorkerMessage): void;
};

self.onmessage = ({ data: { mailbox: end, counters, maxNumSeqs, stepMs } }) => {
  const mailbox = new MailboxReceiver<EngineMessage>(end);
  const loop = stubLoop({ maxNumSeqs, stepMs, looksAhead: true, counters: new Counters(counters) });
  runWorkerLoop(loop, mailbox, (message) => self.postMessage(message));
  mailbox.close();
  self.postMessage({ type: "closed" });
};
