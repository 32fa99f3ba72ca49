import { assertEquals } from "@std/assert";
import type { AsyncEncoder } from "../../models/types.ts";
import { events, fakeApp, fakeTokenizer, post } from "./_fake_engine.ts";

const PATH = "/v1/completions";

/** An encoder that holds texts back until they are let go. */
function heldEncoder() {
  const tokenizer = fakeTokenizer();
  const held: (() => void)[] = [];
  const encoder: AsyncEncoder = {
    encode: (text, options) =>
      text.startsWith("long")
        ? new Promise((resolve) => held.push(() => resolve(tokenizer.encode(text, options))))
        : Promise.resolve(tokenizer.encode(text, options)),
  };
  return { encoder, release: () => held.splice(0).forEach((go) => go()), numHeld: () => held.length };
}

Deno.test("other streams' events are delivered while a long prompt is tokenized", async () => {
  const { encoder, release, numHeld } = heldEncoder();
  const { app, engine } = fakeApp({ promptEncoder: encoder });
  engine.script = null;
  const long = post(app, PATH, { prompt: "long prompt", stream: true });
  const other = await post(app, PATH, { prompt: "other", stream: true });
  assertEquals([numHeld(), engine.requests.length], [1, 1]);
  const reader = other.body!.pipeThrough(new TextDecoderStream()).getReader();
  const request = await engine.submitted(0);
  for (const text of ["a", "b", "c"]) {
    request.emit({ text, tokenIds: [97] });
    assertEquals(events((await reader.read()).value!)[0].choices[0].text, text);
  }
  request.end();
  await reader.cancel();
  assertEquals(engine.requests.length, 1);
  release();
  const second = await engine.submitted(1);
  assertEquals(second.request.promptTokenIds.length, 1 + "long prompt".length);
  second.emit({ text: "d", tokenIds: [97], finishReason: "length" });
  second.end();
  assertEquals(events(await (await long).text()).at(-1), "[DONE]");
});

Deno.test("a request whose client goes away while its prompt is tokenized is never queued", async () => {
  const { encoder, release } = heldEncoder();
  const { app, engine } = fakeApp({ promptEncoder: encoder, maxConcurrentRequests: 1 });
  const client = new AbortController();
  const response = post(app, PATH, "", {
    body: JSON.stringify({ prompt: "long" }),
    signal: client.signal,
  });
  await new Promise((resolve) => setTimeout(resolve, 0));
  client.abort();
  release();
  assertEquals((await response).status, 499);
  assertEquals(engine.requests.length, 0);
  assertEquals((await (await post(app, PATH, { prompt: "next" })).json()).object, "text_completion");
});
