/**
 * What a client that goes away costs: nothing more. In streams and whole responses alike.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import { fakeApp, post, USER_MESSAGE } from "./_fake_engine.ts";

const CHAT = "/v1/chat/completions";
const body = { messages: [USER_MESSAGE] };

Deno.test("a whole response's request is aborted when its client disconnects", async () => {
  const { app, engine } = fakeApp({ maxConcurrentRequests: 1 });
  engine.script = null;
  const client = new AbortController();
  const response = post(app, CHAT, body, {
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
    signal: client.signal,
  });
  const request = await engine.submitted();
  request.emit({ text: "H", tokenIds: [72] });
  client.abort();
  assertEquals((await response).status, 499);
  assertEquals([request.isAborted, engine.numAborts], [true, 1]);
  // The place is free again.
  const next = post(app, CHAT, body);
  (await engine.submitted(1)).end();
  assertEquals((await next).status, 200);
  await (await next).text();
});

Deno.test("a stream's request is aborted when its client disconnects", async () => {
  const { app, engine } = fakeApp({ maxConcurrentRequests: 1 });
  engine.script = null;
  const response = await post(app, CHAT, { ...body, stream: true });
  const request = await engine.submitted();
  request.emit({ text: "H", tokenIds: [72] });
  await response.body?.cancel();
  assertEquals([request.isAborted, engine.numAborts], [true, 1]);
  request.emit({ text: "i", tokenIds: [105] });
  const metrics = await (await app.request("/metrics")).text();
  assertEquals(/octavo_http_cut_responses_total\{.*reason="disconnected".*\} 1/.test(metrics), true);
});

Deno.test("nothing is aborted when a request has ended by itself", async () => {
  const { app, engine } = fakeApp();
  for (const stream of [false, true]) {
    const client = new AbortController();
    const response = await post(app, CHAT, body, {
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ ...body, stream }),
      signal: client.signal,
    });
    await response.text();
    client.abort();
  }
  assertEquals(engine.numAborts, 0);
});

Deno.test("only the prompts that still run are aborted", async () => {
  const { app, engine } = fakeApp();
  engine.script = null;
  const response = await post(app, "/v1/completions", { prompt: ["a", "b", "c"], stream: true });
  engine.requests[1]!.emit({ text: "x", tokenIds: [1], finishReason: "stop" });
  engine.requests[1]!.end();
  await response.body?.cancel();
  assertEquals(engine.requests.map(({ isAborted }) => isAborted), [true, false, true]);
});

Deno.test("a slow reader is aborted and others go on", async () => {
  const { app, engine } = fakeApp({ maxBufferedBytes: 2000 });
  engine.script = null;
  const slow = await post(app, CHAT, { ...body, stream: true });
  const quick = await post(app, CHAT, { ...body, stream: true });
  const quickText = quick.text();
  const [slowRequest, quickRequest] = engine.requests;
  for (let step = 0; step < 50; step++) {
    for (const request of engine.requests) request.emit({ text: "some text", tokenIds: [1] });
    await new Promise((resolve) => setTimeout(resolve, 0));
  }
  assertEquals([slowRequest!.isAborted, quickRequest!.isAborted], [true, false]);
  quickRequest!.emit({ finishReason: "stop" });
  quickRequest!.end();
  assertEquals((await quickText).endsWith("data: [DONE]\n\n"), true);
  await slow.body?.cancel().catch(() => {});
  const metrics = await (await app.request("/metrics")).text();
  assertEquals(/octavo_http_cut_responses_total\{.*reason="slow".*\} 1/.test(metrics), true);
});

Deno.test("nothing is queued when the client is gone before the prompt is read", async () => {
  const { app, engine } = fakeApp();
  const client = new AbortController();
  const response = post(app, CHAT, body, {
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
    signal: client.signal,
  });
  client.abort();
  await (await response).text();
  assertEquals(engine.requests.length, 0);
});
