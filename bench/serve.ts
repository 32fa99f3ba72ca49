/**
 * `deno task bench:serve`: the server with streaming clients over HTTP, all in processes of their own. Clients work in a
 * closed loop: each sends its next request when its last one has ended. Prints JSON: time to the first token (TTFT),
 * between events (ITL), a token after the first (TPOT), output tokens a second.
 *
 *     deno task bench:serve [MODEL | --shape llama-3.1-8b [--layers N]] [--clients 8,64,256] [--requests-per-client 3]
 *         [--prompt 1000] [--new 256] [--processes 8] [--out FILE] [options of serve]
 *
 * @module
 */

import { openModel } from "../models/open_model.ts";
import { VERSION } from "../version.ts";
import { driverVersion, emit, parseBenchCommand } from "./_bench_command.ts";
import { benchModel } from "./_bench_model.ts";
import { makeRandom, percentile, randomPrompt, round } from "./_cells.ts";
import type { ClientJob, RequestTimes } from "./_client.ts";

const FLAGS = ["shape", "layers", "clients", "requests-per-client", "prompt", "new", "processes", "out"] as const;
const MODEL_NAME = "bench";

/** A running server. */
interface ServerProcess extends AsyncDisposable {
  readonly url: string;
  readonly report: string;
  readonly startUpSeconds: number;
}

async function startServer(source: string, flags: readonly string[]): Promise<ServerProcess> {
  const main = new URL("../mod.ts", import.meta.url).pathname;
  const start = performance.now();
  const child = new Deno.Command(Deno.execPath(), {
    args: ["run", "--frozen", "-A", main, "serve", source, "--port=0", `--served-model-name=${MODEL_NAME}`, ...flags],
    stdout: "null",
    stderr: "piped",
  }).spawn();
  const stop = async () => {
    child.kill("SIGTERM");
    await child.status;
  };
  const reader = child.stderr.pipeThrough(new TextDecoderStream()).getReader();
  let report = "";
  for (;;) {
    const { value, done } = await reader.read();
    report += value ?? "";
    const url = report.match(/ at (http:\/\/[^\s]+)\n/)?.[1];
    if (url !== undefined && report.includes("Try it")) {
      drain(reader);
      return { url, report, startUpSeconds: (performance.now() - start) / 1000, [Symbol.asyncDispose]: stop };
    }
    if (done) throw new Error(`The server did not start: ${report}`);
  }
}

/** Hands on what the server says later. */
async function drain(reader: ReadableStreamDefaultReader<string>): Promise<void> {
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    await Deno.stderr.write(new TextEncoder().encode(part.value));
  }
}

async function runClient(job: ClientJob): Promise<RequestTimes[]> {
  const script = new URL("_client.ts", import.meta.url).pathname;
  const args = ["run", "--frozen", "--allow-net", script];
  const child = new Deno.Command(Deno.execPath(), { args, stdin: "piped", stdout: "piped" }).spawn();
  const writer = child.stdin.getWriter();
  await writer.write(new TextEncoder().encode(JSON.stringify(job)));
  await writer.close();
  const { success, stdout } = await child.output();
  if (!success) throw new Error("A client process failed; its message stands above");
  return JSON.parse(new TextDecoder().decode(stdout));
}

interface Load {
  readonly numClients: number;
  readonly requestsPerClient: number;
  readonly numProcesses: number;
  readonly promptTokens: number;
  readonly maxTokens: number;
}

async function measure(url: string, vocabSize: number, load: Load) {
  const numProcesses = Math.min(load.numProcesses, load.numClients);
  const times = (await Promise.all(Array.from({ length: numProcesses }, (_, process) => {
    // Client c belongs to process c % numProcesses.
    const concurrency = Math.floor((load.numClients - process - 1) / numProcesses) + 1;
    const random = makeRandom(100 + process);
    const prompts = Array.from(
      { length: concurrency * load.requestsPerClient },
      () => randomPrompt(load.promptTokens, vocabSize, random),
    );
    return runClient({ url, modelName: MODEL_NAME, concurrency, prompts, maxTokens: load.maxTokens });
  }))).flat();
  const firsts = times.map(({ sentMs, eventMs }) => eventMs[0]! - sentMs);
  const gaps = times.flatMap(({ eventMs }) => eventMs.slice(1).map((time, i) => time - eventMs[i]!));
  const perToken = times.map(({ eventMs }) => (eventMs.at(-1)! - eventMs[0]!) / (load.maxTokens - 1));
  const spanMs = Math.max(...times.map(({ eventMs }) => eventMs.at(-1)!)) -
    Math.min(...times.map(({ sentMs }) => sentMs));
  const both = (values: readonly number[], digits: number) => ({
    p50: round(percentile(values, 0.5), digits),
    p99: round(percentile(values, 0.99), digits),
  });
  return {
    clients: load.numClients,
    requests: times.length,
    prompt: load.promptTokens,
    new: load.maxTokens,
    eventsPerRequest: round(times.reduce((sum, { eventMs }) => sum + eventMs.length, 0) / times.length, 1),
    ttftMs: both(firsts, 1),
    itlMs: both(gaps, 2),
    tpotMs: both(perToken, 2),
    outputTokensPerSecond: round(times.length * load.maxTokens * 1000 / spanMs, 1),
    requestsPerSecond: round(times.length * 1000 / spanMs, 2),
    seconds: round(spanMs / 1000, 2),
  };
}

const { flags, options, serveFlags, source } = parseBenchCommand(Deno.args, FLAGS);
const number = (name: typeof FLAGS[number], fallback: number) => Number(flags[name] ?? fallback);
await using files = await benchModel({ source, shape: flags.shape, layers: flags.layers });
const { loadFormat } = files;
const { config } = await openModel(files.source, { loadFormat });
// What made-up prompts repeat says nothing about guesses, and the peers guess nothing.
const noGuesses = options.numSpeculativeTokens === null ? ["--num-speculative-tokens=0"] : [];
await using server = await startServer(files.source, [...serveFlags, ...noGuesses, `--load-format=${loadFormat}`]);
console.error(server.report.split("\nTry it")[0]);
const load = {
  requestsPerClient: number("requests-per-client", 3),
  numProcesses: number("processes", 8),
  promptTokens: number("prompt", 1000),
  maxTokens: number("new", 256),
};
await measure(server.url, config.vocabSize, { ...load, numClients: 8, requestsPerClient: 1, maxTokens: 16 });
const cells = [];
for (const numClients of (flags.clients ?? "8,64,256").split(",").map(Number)) {
  cells.push(await measure(server.url, config.vocabSize, { ...load, numClients }));
  const { itlMs, outputTokensPerSecond } = cells.at(-1)!;
  console.error(`${numClients} clients: ITL ${itlMs.p50} / ${itlMs.p99} ms, ${outputTokensPerSecond} tokens/s`);
}
await emit({
  engine: `octavo ${VERSION}`,
  model: flags.shape ?? files.source,
  driver: await driverVersion(),
  report: server.report.split("\nTry it")[0]!.split("\n").slice(1).map((line) => line.trim()),
  kvCacheDtype: options.kvCacheDtype,
  quantization: options.quantization,
  startUpSeconds: round(server.startUpSeconds, 1),
  cells,
}, flags.out);
