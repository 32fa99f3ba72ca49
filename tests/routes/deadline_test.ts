/**
 * What a client sees of a deadline.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import type { FakeRequest } from "./_fake_engine.ts";
import { events, fakeApp, post, reply, USER_MESSAGE } from "./_fake_engine.ts";

const CHAT = "/v1/chat/completions";
const body = { messages: [USER_MESSAGE], deadline_ms: 500 };
const OVERDUE = { finishReason: "length", stopReason: "deadline" } as const;

/** An engine that gives so many tokens, then meets the deadline. */
function late(numTokens: number): (fake: FakeRequest) => void {
  return (fake) => {
    for (let i = 0; i < numTokens; i++) fake.emit({ text: "a", tokenIds: [97] });
    fake.emit(OVERDUE);
    fake.end();
  };
}

Deno.test("deadline_ms goes to the engine less what has passed since the arrival; the server's applies without", async () => {
  for (const [own, expected] of [[500, 500], [undefined, 9000]] as const) {
    const { app, engine } = fakeApp({ deadlineMs: 9000 });
    await (await post(app, CHAT, { messages: [USER_MESSAGE], ...own && { deadline_ms: own } })).text();
    const { deadlineMs } = engine.requests[0]!.request;
    assert(deadlineMs! > expected - 400 && deadlineMs! < expected, `${deadlineMs} ms are left of ${expected}`);
  }
  const { app, engine } = fakeApp();
  await (await post(app, CHAT, { messages: [USER_MESSAGE] })).text();
  assertEquals(engine.requests[0]!.request.deadlineMs, null);
});

Deno.test("a deadline after the first token ends a response with what there is", async () => {
  const { app, engine } = fakeApp();
  engine.script = late(2);
  const { choices: [choice], usage } = await (await post(app, CHAT, body)).json();
  assertEquals([choice.message.content, choice.finish_reason, choice.stop_reason], ["aa", "length", "deadline"]);
  assertEquals(usage.completion_tokens, 2);
  const stream = events(await (await post(app, CHAT, { ...body, stream: true })).text());
  assertEquals(stream.at(-1), "[DONE]");
  assertEquals([stream.at(-2).choices[0].finish_reason, stream.at(-2).choices[0].stop_reason], ["length", "deadline"]);
});

Deno.test("a deadline before the first token is a 408 that no client repeats", async () => {
  const { app, engine } = fakeApp();
  engine.script = late(0);
  const response = await post(app, CHAT, body);
  assertEquals([response.status, response.headers.get("x-should-retry")], [408, "false"]);
  const error = {
    message: "The request's deadline of 500 ms passed before its first token",
    type: "invalid_request_error",
    param: "deadline_ms",
    code: "deadline_exceeded",
  };
  assertEquals((await response.json()).error, error);
  assertEquals(events(await (await post(app, CHAT, { ...body, stream: true })).text()), [{ error }]);
});

Deno.test("a deadline of several prompts keeps what some of them gave", async () => {
  const { app, engine } = fakeApp();
  let index = 0;
  engine.script = (fake) => late(index++ === 0 ? 1 : 0)(fake);
  const { choices } = await (await post(app, "/v1/completions", { prompt: ["a", "b"], deadline_ms: 500 })).json();
  assertEquals(choices.map((choice: { text: string }) => choice.text), ["a", ""]);
});

Deno.test("a choice that a deadline left without tokens is the last of best_of", async () => {
  const { app, engine } = fakeApp();
  engine.script = (fake) => {
    fake.emit({ index: 1, text: "b", tokenIds: [98], logprobs: [{ tokenId: 98, logprob: -3, top: [] }] });
    fake.emit({ index: 0, ...OVERDUE }, { index: 1, ...OVERDUE });
    fake.end();
  };
  const request = { prompt: "a", best_of: 2, n: 1, deadline_ms: 500 };
  const { choices } = await (await post(app, "/v1/completions", request)).json();
  assertEquals(choices[0].text, "b");
});

Deno.test("deadline_ms must be a positive integer", async () => {
  const { app, engine } = fakeApp();
  engine.script = reply("x");
  for (const deadline_ms of [0, -1, 1.5, "1"]) {
    assertEquals((await post(app, CHAT, { ...body, deadline_ms })).status, 400);
  }
});
