/**
 * One process of streaming clients for `bench/host.ts`, as cheap as clients can be: raw sockets whose events are counted
 * by their blank lines, so that the server is what is measured.
 *
 *     deno run --allow-net bench/_sse_clients.ts PORT STREAMS MAX_TOKENS SECONDS
 *
 * Prints "begin" when all streams have had a token and a second has passed, and after SECONDS its figures as JSON.
 *
 * @module
 */

import { percentile } from "./_cells.ts";

export interface SseFigures {
  readonly events: number;
  readonly seconds: number;
  /** Between two reads that brought events, of any stream. */
  readonly gapMs: { readonly p50: number; readonly p99: number };
}

const NEWLINE = 10;

/** A stream's events so far. */
class Client {
  numEvents = 0;
  readonly gapsMs: number[] = [];
  #lastMs = 0;
  #lastByte = 0;

  /** Reads until the server ends the stream or the process does. */
  async run(port: number, maxTokens: number): Promise<void> {
    const socket = await Deno.connect({ hostname: "127.0.0.1", port });
    socket.setNoDelay();
    const body = JSON.stringify({ prompt: [1], max_tokens: maxTokens, ignore_eos: true, stream: true });
    const head = "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n" +
      `content-length: ${body.length}\r\n\r\n`;
    await socket.write(new TextEncoder().encode(head + body));
    const bytes = new Uint8Array(65536);
    for (let count = await socket.read(bytes); count !== null; count = await socket.read(bytes)) {
      this.#read(bytes, count);
    }
  }

  #read(bytes: Uint8Array, count: number): void {
    const before = this.numEvents;
    for (let i = 0; i < count; i++) {
      if (bytes[i] === NEWLINE && this.#lastByte === NEWLINE) this.numEvents++;
      this.#lastByte = bytes[i]!;
    }
    if (this.numEvents === before) return;
    const now = performance.now();
    if (this.#lastMs > 0) this.gapsMs.push(now - this.#lastMs);
    this.#lastMs = now;
  }
}

const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

if (import.meta.main) {
  const [port, streams, maxTokens, seconds] = Deno.args.map(Number) as [number, number, number, number];
  const clients = Array.from({ length: streams }, () => new Client());
  for (const client of clients) client.run(port, maxTokens);
  while (clients.some(({ numEvents }) => numEvents === 0)) await sleep(10);
  await sleep(1000);
  console.log("begin");
  const numEvents = () => clients.reduce((sum, client) => sum + client.numEvents, 0);
  for (const client of clients) client.gapsMs.length = 0;
  const [before, beginMs] = [numEvents(), performance.now()];
  await sleep(seconds * 1000);
  const [events, measured] = [numEvents() - before, (performance.now() - beginMs) / 1000];
  const gaps = clients.flatMap(({ gapsMs }) => gapsMs);
  const gapMs = { p50: percentile(gaps, 0.5), p99: percentile(gaps, 0.99) };
  console.log(JSON.stringify({ events, seconds: measured, gapMs } satisfies SseFigures));
  Deno.exit(0);
}
