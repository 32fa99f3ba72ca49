/**
 * The engine thread's loop: take messages, run a step, send what it did; sleep when there is nothing to do.
 *
 * @module
 */

import type { MailboxReceiver } from "./mailbox.ts";
import type { EngineMessage, WorkerMessage } from "./messages.ts";
import type { StepLoop } from "./step_loop.ts";

/**
 * Runs until a close message comes or the engine fails; either way no request is left without its last outcome.
 * Blocks the calling thread.
 *
 * @param afterStep Called after every step, once its outcomes are sent.
 */
export function runWorkerLoop(
  loop: StepLoop,
  mailbox: MailboxReceiver<EngineMessage>,
  post: (message: WorkerMessage) => void,
  afterStep: (isIdle: boolean) => void = () => {},
): void {
  try {
    while (takeMessages(loop, mailbox)) {
      loop.step();
      postOutcomes(loop, post);
      afterStep(loop.isIdle);
      if (loop.isIdle) mailbox.wait();
    }
    loop.fail("The engine was closed");
    postOutcomes(loop, post);
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    loop.fail(`The engine failed: ${message}`);
    postOutcomes(loop, post);
    post({ type: "failed", message });
  }
}

/** Hands on all messages that have come. False: close. */
function takeMessages(loop: StepLoop, mailbox: MailboxReceiver<EngineMessage>): boolean {
  for (let message = mailbox.receive(); message !== undefined; message = mailbox.receive()) {
    if (message.type === "close") return false;
    if (message.type === "submit") loop.submit(message);
    else loop.abort(message.key);
  }
  return true;
}

function postOutcomes(loop: StepLoop, post: (message: WorkerMessage) => void): void {
  const outcomes = loop.takeOutcomes();
  if (outcomes.length > 0) post({ type: "outcomes", outcomes });
}
