/** An engine's Worker with the fake model in the native library's place: the real loop, mailbox and messages. */

import { Counters } from "../../engine/counters.ts";
import { type MailboxEnd, MailboxReceiver } from "../../engine/mailbox.ts";
import type { EngineMessage, WorkerMessage } from "../../engine/messages.ts";
import { StepLoop } from "../../engine/step_loop.ts";
import { runWorkerLoop } from "../../engine/worker_loop.ts";
import { EOS, FakeRunner, type FakeRunnerConfig, TABLE, VOCAB_SIZE } from "./_fake_model.ts";

/** How the engine fails: not at all, by an error of a step, or by an error that nothing catches. */
export type Fault = "none" | "step" | "worker";

export interface FakeStart {
  readonly mailbox: MailboxEnd;
  readonly counters: SharedArrayBuffer;
  readonly config: FakeRunnerConfig;
  readonly fault: Fault;
  /** Step `n` waits until `gate[0] > n`. */
  readonly gate: Int32Array;
}

declare const self: {
  onmessage: ((event: MessageEvent<FakeStart>) => void) | null;
  postMessage(message: WorkerMessage): void;
};

self.onmessage = ({ data: { mailbox: end, counters, config, fault, gate } }) => {
  const mailbox = new MailboxReceiver<EngineMessage>(end);
  const runner = new FakeRunner(config);
  runner.onStep = () => {
    for (let open = gate[0]!; open <= runner.numSteps; open = Atomics.load(gate, 0)) Atomics.wait(gate, 0, open);
    if (fault === "step" && runner.numSteps === 2) throw new Error("device lost");
  };
  const post = (message: WorkerMessage) => {
    if (fault === "worker" && runner.numSteps === 2) throw new Error("out of memory");
    self.postMessage(message);
  };
  const options = {
    pageSize: config.pageSize,
    numPages: config.numPages,
    vocabSize: VOCAB_SIZE,
    tokenTable: TABLE,
    eosTokenIds: [EOS],
    counters: new Counters(counters),
    kvFingerprint: "fake",
    looksAhead: false,
    warn: (message: string) => self.postMessage({ type: "warning", message }),
  };
  runWorkerLoop(new StepLoop(runner, options), mailbox, post);
  mailbox.close();
  self.postMessage({ type: "closed" });
};
