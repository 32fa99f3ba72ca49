import { assertEquals, assertGreater, assertThrows } from "@std/assert";
import { EngineError, OverloadedError, RequestError } from "../../engine/errors.ts";
import { EngineClient } from "../../engine/engine_client.ts";
import { MailboxReceiver, MailboxSender } from "../../engine/mailbox.ts";
import type { EngineMessage, WorkerMessage } from "../../engine/messages.ts";
import { clientOptions, Recorder, startFakeEngine } from "./_fake_engine.ts";
import { expectedOutput, greedy } from "./_fake_model.ts";

const PROMPT = [1, 5, 9];
const LONG = greedy({ maxTokens: 30, ignoreEos: true });

function request(id: string, promptTokenIds = PROMPT, sampling = LONG) {
  return { id, promptTokenIds, sampling };
}

/** Gives the Worker time until a condition holds. */
async function until(condition: () => boolean): Promise<void> {
  for (let i = 0; !condition(); i++) {
    if (i > 2000) throw new Error("The condition never held");
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}

Deno.test("EngineClient.submit() delivers each request's tokens and one end", async () => {
  const { engine } = startFakeEngine();
  const prompts = Array.from({ length: 20 }, (_, i) => [2 + i, 3, 2 + (i * 7) % 30]);
  const sinks = prompts.map((prompt, i) => {
    const sink = new Recorder();
    engine.submit(request(`r${i}`, prompt), sink);
    return sink;
  });
  for (const [i, sink] of sinks.entries()) {
    assertEquals(await sink.lastEvent(), "end 30");
    assertEquals(sink.tokenIds, expectedOutput(prompts[i]!, LONG));
  }
  await engine.close();
  assertEquals(new Set(sinks.map((sink) => sink.events.length)), new Set([1]));
});

Deno.test("EngineClient.submit() refuses at once and queues nothing", async () => {
  const { engine } = startFakeEngine();
  const sink = new Recorder();
  assertThrows(() => engine.submit(request("a", []), sink), RequestError, "no tokens");
  assertThrows(() => engine.submit(request("a", Array(180).fill(2)), sink), RequestError, "maximum context length");
  assertEquals(engine.stats().numRequestsWaiting, 0);
  await engine.close();
  assertEquals(sink.events, []);
});

Deno.test("EngineClient.submit() refuses an id in use, and takes it again later", async () => {
  const { engine } = startFakeEngine();
  const sink = new Recorder();
  engine.submit(request("a"), sink);
  assertThrows(() => engine.submit(request("a"), new Recorder()), TypeError, 'the id "a" is in use');
  await sink.ended;
  const again = new Recorder();
  engine.submit(request("a"), again);
  assertEquals(await again.lastEvent(), "end 30");
  await engine.close();
});

Deno.test("EngineClient.submit() throws OverloadedError when the queue is full", async () => {
  const { engine, allowSteps } = startFakeEngine({ maxQueuedRequests: 3, steps: 0 });
  const sinks = [0, 1, 2].map((i) => {
    const sink = new Recorder();
    engine.submit(request(`r${i}`), sink);
    return sink;
  });
  assertEquals(engine.stats().numRequestsWaiting, 3);
  assertThrows(() => engine.submit(request("r3"), new Recorder()), OverloadedError, "3, the limit is 3");
  allowSteps(1000);
  for (const sink of sinks) assertEquals(await sink.lastEvent(), "end 30");
  await engine.close();
});

Deno.test("EngineClient aborts a request and frees its pages when the sink's owner goes away", async () => {
  const { engine, allowSteps } = startFakeEngine({ steps: 5 });
  const sink = new Recorder();
  const abort = engine.submit(request("a"), sink);
  await until(() => sink.tokenIds.length === 5);
  assertGreater(engine.stats().kvCacheUsage, 0);
  abort();
  abort();
  allowSteps(6);
  assertEquals(await sink.lastEvent(), `end ${sink.tokenIds.length}`);
  assertEquals(sink.received.at(-1)!.finishReason, "abort");
  assertEquals(sink.tokenIds, expectedOutput(PROMPT, LONG).slice(0, sink.tokenIds.length));
  await until(() => engine.stats().kvCacheUsage === 0);
  await engine.close();
  assertEquals(sink.events.length, 1);
});

// After ROCm/ATOM#1589: 58,455 aborts for requests that had finished.
Deno.test("EngineClient sends one abort for a live request and none for one that has ended", async () => {
  const mailbox = new MailboxSender<EngineMessage>();
  const receiver = new MailboxReceiver<EngineMessage>(mailbox.receivingEnd);
  const worker = { terminate() {} } as Worker;
  const engine = new EngineClient({ ...clientOptions(), worker, mailbox });
  const post = (data: WorkerMessage) => worker.onmessage!(new MessageEvent("message", { data }));
  const received = () => {
    const types: string[] = [];
    for (let message = receiver.receive(); message !== undefined; message = receiver.receive()) {
      types.push(message.type);
    }
    return types;
  };
  const sinks = [new Recorder(), new Recorder()];
  const [abortEnded, abortLive] = sinks.map((sink, i) => engine.submit(request(`r${i}`), sink));
  const usage = { promptTokens: 3, completionTokens: 0, cachedTokens: 0 };
  const ended = { deltas: [], usage, error: null };
  post({ type: "outcomes", columns: null, outcomes: [{ key: 0, promptScores: null, ...ended }] });
  assertEquals(received(), ["submit", "submit"]);
  for (const abort of [abortEnded!, abortEnded!, abortLive!, abortLive!]) abort();
  assertEquals(received(), ["abort"]);
  // What the Worker says late of a request that has ended is nobody's.
  post({
    type: "outcomes",
    columns: null,
    outcomes: [{ key: 0, promptScores: null, ...ended }, { key: 1, promptScores: null, ...ended }],
  });
  const closed = engine.close();
  post({ type: "closed" });
  await closed;
  receiver.close();
  assertEquals(sinks.map((sink) => sink.events), [["end 0"], ["end 0"]]);
});

// After vllm#36960 and PR#36961: health is read, not asked for, and shows a frozen engine.
Deno.test("EngineClient drops a request whose sink throws, and no other", async () => {
  const { engine } = startFakeEngine();
  const logged: string[] = [];
  const { error } = console;
  console.error = (...parts: unknown[]) => logged.push(parts.join(" "));
  try {
    const fail = () => {
      throw new TypeError("no more");
    };
    const other = new Recorder();
    engine.submit(request("bad"), { deltas: fail, end: fail, error: fail });
    engine.submit(request("good"), other);
    assertEquals(await other.lastEvent(), "end 30");
    await until(() => engine.stats().numRequestsRunning === 0 && engine.stats().kvCacheUsage === 0);
    engine.submit(request("bad"), { deltas: fail, end: fail, error: fail });
    await until(() => engine.stats().numRequestsWaiting === 0);
    await engine.close();
  } finally {
    console.error = error;
  }
  assertEquals(logged, Array(2).fill("The sink of request bad failed: TypeError: no more"));
});

Deno.test("EngineClient.stats() never waits for the engine and shows the age of the last step", async () => {
  const { engine, allowSteps } = startFakeEngine({ steps: 3 });
  assertEquals(engine.stats().lastStepAgeMs, null);
  const sinks = Array.from({ length: 6 }, (_, i) => {
    const sink = new Recorder();
    engine.submit(request(`r${i}`), sink);
    return sink;
  });
  await until(() => engine.stats().stepsTotal === 3);
  const frozen = engine.stats();
  assertEquals([frozen.numRequestsRunning, frozen.numRequestsWaiting, frozen.alive], [4, 2, true]);
  await until(() => engine.stats().lastStepAgeMs! >= 20);
  allowSteps(1000);
  for (const sink of sinks) await sink.ended;
  const { promptTokensTotal, generationTokensTotal, numRequestsWaiting, kvCacheUsage } = engine.stats();
  assertEquals([promptTokensTotal, generationTokensTotal, numRequestsWaiting, kvCacheUsage], [18, 180, 0, 0]);
  await engine.close();
});

// After vllm#27194: a dead engine tells every request, once, and takes no more.
for (
  const [fault, message] of [
    ["step", "EngineError: The engine failed: device lost"],
    ["worker", "EngineError: The engine failed: Uncaught Error: out of memory"],
  ] as const
) {
  Deno.test(`EngineClient ends every request with an error when the ${fault} fails`, async () => {
    const { engine } = startFakeEngine({ fault });
    const sinks = [0, 1, 2, 3, 4, 5].map((i) => {
      const sink = new Recorder();
      engine.submit(request(`r${i}`), sink);
      return sink;
    });
    for (const sink of sinks) assertEquals(await sink.lastEvent(), message);
    await until(() => !engine.stats().alive);
    assertThrows(() => engine.submit(request("late"), new Recorder()), EngineError, "The engine failed");
    await engine.close();
    assertEquals(sinks.map((sink) => sink.events.length), [1, 1, 1, 1, 1, 1]);
  });
}

Deno.test("EngineClient.close() ends live requests with an error; closing twice is closing once", async () => {
  const { engine, allowSteps } = startFakeEngine({ steps: 2 });
  const sink = new Recorder();
  engine.submit(request("a"), sink);
  await until(() => sink.tokenIds.length === 2);
  const closed = engine.close();
  assertThrows(() => engine.submit(request("b"), new Recorder()), EngineError, "The engine is closed");
  allowSteps(3);
  await Promise.all([closed, engine.close(), engine[Symbol.asyncDispose]()]);
  assertEquals(sink.events, ["EngineError: The engine was closed"]);
  assertEquals(engine.stats().alive, false);
});

Deno.test("EngineClient ends a request that is overdue when the engine takes it", async () => {
  const { engine } = startFakeEngine();
  await using _engine = engine;
  const ends = [0, 1e9].map(async (deadlineMs, i) => {
    const recorder = new Recorder();
    const sampling = greedy({ maxTokens: 3, ignoreEos: true });
    engine.submit({ id: `${i}`, promptTokenIds: [5], sampling, deadlineMs }, recorder);
    return [await recorder.lastEvent(), recorder.received.at(-1)!.stopReason];
  });
  assertEquals(await Promise.all(ends), [["end 0", "deadline"], ["end 3", null]]);
});
