/**
 * The whole host side under load, for `bench/host.ts`: the engine's Worker on a stub that takes a fixed time a step, the
 * HTTP app on a real socket, and clients in processes of their own.
 *
 * @module
 */

import { Counters } from "../engine/counters.ts";
import { EngineClient } from "../engine/engine_client.ts";
import { MailboxSender } from "../engine/mailbox.ts";
import type { EngineMessage } from "../engine/messages.ts";
import { createApp } from "../routes/app.ts";
import { clientOptions } from "../tests/engine/_fake_engine.ts";
import { fakeTokenizer } from "../tests/routes/_fake_engine.ts";
import { VERSION } from "../version.ts";
import { round } from "./_cells.ts";
import type { SseFigures } from "./_sse_clients.ts";
import type { StubStart } from "./_stub_engine_worker.ts";
import { PAGE_SIZE, PAGES_PER_SEQ, VOCAB_SIZE } from "./_stub_loop.ts";

export interface SseLoad {
  readonly streams: number;
  readonly stepMs: number;
  readonly seconds: number;
  readonly processes: number;
}

function startStubEngine({ streams, stepMs }: SseLoad): EngineClient {
  const common = clientOptions();
  const counters = new Counters();
  const mailbox = new MailboxSender<EngineMessage>();
  const worker = new Worker(new URL("./_stub_engine_worker.ts", import.meta.url), { type: "module" });
  const start: StubStart = {
    mailbox: mailbox.receivingEnd,
    counters: counters.memory,
    maxNumSeqs: streams,
    stepMs,
  };
  worker.postMessage(start, [mailbox.receivingEnd.port]);
  const numPages = streams * PAGES_PER_SEQ;
  const maxModelLen = PAGE_SIZE * PAGES_PER_SEQ;
  return new EngineClient({
    ...common,
    info: { ...common.info, pageSize: PAGE_SIZE, numPages, maxModelLen, maxNumSeqs: streams },
    limits: {
      ...common.limits,
      vocabSize: VOCAB_SIZE,
      numEosTokenIds: 0,
      kvKinds: [{ kvDtype: "float32", pageSize: PAGE_SIZE }],
      numPages,
      maxModelLen,
      maxNumSeqs: streams,
    },
    counters,
    worker,
    mailbox,
  });
}

/** Runs one process of clients. `onBegin` is called when it begins to count. */
async function runClients(port: number, streams: number, seconds: number, onBegin: () => void): Promise<SseFigures> {
  const script = new URL("_sse_clients.ts", import.meta.url).pathname;
  const maxTokens = PAGE_SIZE * PAGES_PER_SEQ - 1;
  const args = ["run", "--frozen", "--allow-net", script, ...[port, streams, maxTokens, seconds].map(String)];
  const child = new Deno.Command(Deno.execPath(), { args, stdout: "piped" }).spawn();
  let text = "";
  for await (const part of child.stdout.pipeThrough(new TextDecoderStream())) {
    if (text === "") onBegin();
    text += part;
  }
  if (!(await child.status).success) throw new Error("A client process failed; its message stands above");
  return JSON.parse(text.slice(text.indexOf("\n")));
}

/** Tokens that clients receive, of those that a device of `stepMs` a step would give: both as shares of the ideal. */
export async function sseRate(load: SseLoad) {
  const { streams, stepMs, seconds, processes } = load;
  await using engine = startStubEngine(load);
  const app = createApp({
    engine,
    modelNames: ["stub"],
    tokenizer: fakeTokenizer(),
    chatTemplate: null,
    generationDefaults: {},
    version: VERSION,
    createdAt: 0,
  });
  await using server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen: () => {} }, app.fetch);
  const ideal = streams * 1000 / stepMs;
  const begins: { steps: number; ms: number }[] = [];
  const onBegin = () => begins.push({ steps: engine.stats().stepsTotal, ms: performance.now() });
  const { port } = server.addr;
  const figures = await Promise.all(
    Array.from({ length: processes }, () => runClients(port, streams / processes, seconds, onBegin)),
  );
  const last = { steps: engine.stats().stepsTotal, ms: performance.now() };
  const [first] = begins;
  const received = figures.reduce((sum, one) => sum + one.events / one.seconds, 0);
  return {
    ...load,
    idealTokensPerS: ideal,
    receivedTokensPerS: Math.round(received),
    receivedShare: round(received / ideal),
    engineShare: round((last.steps - first!.steps) / (last.ms - first!.ms) * stepMs),
    gapMs: figures.map(({ gapMs }) => ({ p50: round(gapMs.p50, 2), p99: round(gapMs.p99, 2) })),
  };
}
