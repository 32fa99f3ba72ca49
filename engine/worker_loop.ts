/**
 * The engine thread's loop: take messages, run a step, send what it did; sleep when there is nothing to do.
 *
 * @module
 */

import type { KvComparer } from "./kv_comparer.ts";
import type { MailboxReceiver } from "./mailbox.ts";
import type { EngineMessage, WorkerMessage } from "./messages.ts";
import type { StepLoop } from "./step_loop.ts";
import { packOutcomes } from "./token_columns.ts";

export interface WorkerLoopOptions {
  /** Called after every step, once its outcomes are sent. */
  readonly afterStep?: (isIdle: boolean) => void;
  /** Gets a turn after every step; null: comparisons are not offered. */
  readonly comparer?: KvComparer | null;
}

/**
 * Runs until a close message comes or the engine fails; either way no request is left without its last outcome.
 * Blocks the calling thread.
 */
export function runWorkerLoop(
  loop: StepLoop,
  mailbox: MailboxReceiver<EngineMessage>,
  post: (message: WorkerMessage) => void,
  { afterStep = () => {}, comparer = null }: WorkerLoopOptions = {},
): void {
  try {
    while (takeMessages(loop, mailbox, comparer)) {
      loop.step();
      postOutcomes(loop, post);
      afterStep(loop.isIdle);
      const compared = comparer?.turn() ?? null;
      if (compared !== null) post(compared);
      if (loop.isIdle && comparer?.isIdle !== false) mailbox.wait();
    }
    loop.fail("The engine was closed");
    postOutcomes(loop, post);
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    loop.fail(`The engine failed: ${message}`);
    postOutcomes(loop, post);
    post({ type: "failed", message });
  } finally {
    comparer?.close();
  }
}

/** Hands on all messages that have come. False: close. */
function takeMessages(
  loop: StepLoop,
  mailbox: MailboxReceiver<EngineMessage>,
  comparer: KvComparer | null,
): boolean {
  for (let message = mailbox.receive(); message !== undefined; message = mailbox.receive()) {
    if (message.type === "close") return false;
    if (message.type === "submit") loop.submit(message);
    else if (message.type === "compare") comparer?.start(message);
    else if (!comparer?.abort(message.key)) loop.abort(message.key);
  }
  return true;
}

function postOutcomes(loop: StepLoop, post: (message: WorkerMessage) => void): void {
  const outcomes = loop.takeOutcomes();
  if (outcomes.length === 0) return;
  const { columns, others } = packOutcomes(outcomes);
  post({ type: "outcomes", columns: columns.keys.length > 0 ? columns : null, outcomes: others });
}
