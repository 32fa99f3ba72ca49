/**
 * The app behind a real server on loopback, with OpenAI's own client and raw fetch.
 *
 * @module
 */

import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import OpenAI from "openai";
import { EngineError } from "../../engine/errors.ts";
import type { ServerContext } from "../../routes/context.ts";
import { fakeApp, type FakeEngine, reply, USER_MESSAGE } from "./_fake_engine.ts";

interface Served {
  readonly url: string;
  readonly engine: FakeEngine;
  readonly client: OpenAI;
}

async function withServer(
  run: (served: Served) => Promise<void>,
  overrides: Partial<ServerContext> = {},
): Promise<void> {
  const { app, engine } = fakeApp({ apiKeys: [{ key: "key", tenant: { name: "a", weight: 1 } }], ...overrides });
  await using server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen: () => {} }, app.fetch);
  const url = `http://127.0.0.1:${server.addr.port}`;
  const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "key", maxRetries: 0 });
  await run({ url, engine, client });
}

const messages = [{ role: "user" as const, content: "Hi" }];
const model = "demo";
const TEXT = 'Grüße 👩‍👩‍👧 "q"\n\ndata: x\u2028 end';

function postRaw(url: string, body: unknown, signal?: AbortSignal): Promise<Response> {
  return fetch(`${url}/v1/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json", authorization: "Bearer key" },
    body: JSON.stringify(body),
    ...signal && { signal },
  });
}

/** Waits for something that happens in another task. */
async function eventually(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 1));
}

Deno.test("openai-node reads whole responses, raw streams and .stream() alike", async () => {
  await withServer(async ({ engine, client }) => {
    engine.script = reply(TEXT);
    const whole = await client.chat.completions.create({ model, messages, logprobs: true, top_logprobs: 1 });
    assertEquals(whole.choices[0]?.message.content, TEXT);
    assertEquals(whole.choices[0]?.logprobs?.content?.length, whole.usage?.completion_tokens);

    const stream_options = { include_usage: true };
    let text = "";
    let usage: OpenAI.CompletionUsage | null | undefined;
    for await (const chunk of await client.chat.completions.create({ model, messages, stream: true, stream_options })) {
      text += chunk.choices[0]?.delta.content ?? "";
      usage = chunk.usage;
    }
    assertEquals(text, TEXT);
    assertEquals(usage?.total_tokens, whole.usage?.total_tokens);

    const final = await client.chat.completions.stream({ model, messages, n: 2 }).finalChatCompletion();
    assertEquals(final.choices.map(({ message }) => message.content), [TEXT, TEXT]);
    assertEquals(final.choices.map(({ finish_reason }) => finish_reason), ["stop", "stop"]);

    let completion = "";
    for await (const chunk of await client.completions.create({ model, prompt: "a", max_tokens: 200, stream: true })) {
      completion += chunk.choices[0]?.text ?? "";
    }
    assertEquals(completion, TEXT);
  });
});

Deno.test("openai-node lists and finds models", async () => {
  await withServer(async ({ client }) => {
    const ids: string[] = [];
    for await (const { id } of client.models.list()) ids.push(id);
    assertEquals(ids, ["demo", "org/demo"]);
    assertEquals((await client.models.retrieve("org/demo")).id, "org/demo");
  });
});

Deno.test("openai-node raises its own error types with our message, code, param and request id", async () => {
  await withServer(async ({ url, engine, client }) => {
    const bad = await assertRejects(
      () => client.chat.completions.create({ model, messages, temperature: 9 }),
      OpenAI.BadRequestError,
    );
    assertEquals([bad.param, bad.type, bad.status], ["temperature", "invalid_request_error", 400]);
    assert(bad.requestID);
    const missing = await assertRejects(
      () => client.chat.completions.create({ model: "x", messages }),
      OpenAI.NotFoundError,
    );
    assertEquals(missing.code, "model_not_found");
    const stranger = new OpenAI({ baseURL: `${url}/v1`, apiKey: "wrong", maxRetries: 0 });
    await assertRejects(() => stranger.models.list(), OpenAI.AuthenticationError);

    engine.script = (fake) => {
      fake.emit({ text: "H", tokenIds: [72] });
      fake.fail(new EngineError("lost"));
    };
    const read = async () => {
      for await (const _ of await client.chat.completions.create({ model, messages, stream: true }));
    };
    const broken = await assertRejects(read, OpenAI.APIError);
    assertStringIncludes(broken.message, "The engine is not running");
  });
});

Deno.test("a stream's headers arrive before its first token", async () => {
  await withServer(async ({ url, engine }) => {
    engine.script = null;
    const response = await postRaw(url, { messages: [USER_MESSAGE], stream: true });
    assertEquals(response.status, 200);
    engine.requests[0]!.emit({ text: "H", tokenIds: [72], finishReason: "stop" });
    engine.requests[0]!.end();
    assert((await response.text()).endsWith("data: [DONE]\n\n"));
  });
});

Deno.test("a client that disconnects aborts its request, streamed or not", async () => {
  await withServer(async ({ url, engine }) => {
    engine.script = null;
    const streamed = new AbortController();
    const response = await postRaw(url, { messages, stream: true }, streamed.signal);
    engine.requests[0]!.emit({ text: "H", tokenIds: [72] });
    await response.body!.getReader().read();
    streamed.abort();
    await eventually(() => engine.requests[0]!.isAborted);

    const whole = new AbortController();
    const pending = postRaw(url, { messages }, whole.signal).catch(() => null);
    await engine.submitted(1);
    whole.abort();
    await pending;
    await eventually(() => engine.requests[1]!.isAborted);
    assertEquals(engine.numAborts, 2);
  });
});

Deno.test("a reader that stops reading is cut off while another stream goes on", async () => {
  await withServer(async ({ url, engine }) => {
    engine.script = null;
    const slow = await postRaw(url, { messages, stream: true });
    const quick = await postRaw(url, { messages, stream: true });
    const quickText = quick.text();
    const big = "x".repeat(64 * 1024);
    const [slowRequest, quickRequest] = engine.requests;
    // The kernel's socket buffers take some megabytes first.
    for (let step = 0; step < 2000 && !slowRequest!.isAborted; step++) {
      slowRequest!.emit({ text: big, tokenIds: [1] });
      quickRequest!.emit({ text: "y", tokenIds: [1] });
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    assertEquals([slowRequest!.isAborted, quickRequest!.isAborted], [true, false]);
    quickRequest!.emit({ finishReason: "stop" });
    quickRequest!.end();
    assert((await quickText).endsWith("data: [DONE]\n\n"));
    await slow.body?.cancel().catch(() => {});
  });
});

Deno.test("sixteen streams at once each get their own text", async () => {
  await withServer(async ({ engine, client }) => {
    engine.script = (fake) => reply(`seed ${fake.request.sampling.seed} é🙂`)(fake);
    const texts = await Promise.all(Array.from({ length: 16 }, async (_, seed) => {
      let text = "";
      for await (const chunk of await client.chat.completions.create({ model, messages, seed, stream: true })) {
        text += chunk.choices[0]?.delta.content ?? "";
      }
      return text;
    }));
    assertEquals(texts, Array.from({ length: 16 }, (_, seed) => `seed ${seed} é🙂`));
  });
});
