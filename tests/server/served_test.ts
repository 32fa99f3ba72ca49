/** The demo model behind a real socket, driven by openai-node and fetch. */
import { assertEquals, assertGreater, assertStringIncludes } from "@std/assert";
import OpenAI from "openai";
import { serve, type ServeOptions, type Server } from "../../serve.ts";
import { metric } from "./_metrics.ts";

const QUIET: ServeOptions = { port: 0, kvCacheMemory: { bytes: 96 * 2 ** 20 }, maxModelLen: 2048, log: () => {} };

async function withServer(options: ServeOptions, body: (server: Server) => Promise<void>) {
  await using server = await serve({ ...QUIET, ...options });
  await body(server);
}

function openai({ url }: Server): OpenAI {
  return new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });
}

const PROMPTS = Array.from(
  { length: 16 },
  (_, i) => `Count from ${i} to ${i + 5}, then say a word that rhymes with it.`,
);

Deno.test("serve() gives 16 concurrent streams the text that each has alone", () =>
  withServer({ kvCacheDtype: "fp8" }, async (server) => {
    const client = openai(server);
    const params = { model: "SmolLM2-135M-Instruct", temperature: 0, max_tokens: 12 };
    const message = (content: string) => [{ role: "user" as const, content }];
    const streamed = await Promise.all(PROMPTS.map(async (prompt) => {
      const stream = await client.chat.completions.create({ ...params, messages: message(prompt), stream: true });
      let text = "";
      for await (const chunk of stream) text += chunk.choices[0]?.delta.content ?? "";
      return text;
    }));
    for (const i of [0, 7, 15]) {
      const alone = await client.chat.completions.create({ ...params, messages: message(PROMPTS[i]!) });
      assertEquals(streamed[i], alone.choices[0]!.message.content);
      assertGreater(streamed[i]!.length, 0);
    }
    assertEquals(await metric(server.url, "octavo_num_requests_running"), 0);
    assertEquals(await metric(server.url, "octavo_kv_cache_usage_ratio"), 0);
  }));

Deno.test("serve() gives the same text with a prediction, most of whose tokens it accepts", () =>
  withServer({}, async (server) => {
    const client = openai(server);
    const params = {
      model: "SmolLM2-135M-Instruct",
      messages: [{ role: "user" as const, content: "Name three colours and what they stand for." }],
      temperature: 0,
      max_tokens: 48,
    };
    const plain = await client.chat.completions.create(params);
    const content = plain.choices[0]!.message.content!;
    const predicted = await client.chat.completions.create({ ...params, prediction: { type: "content", content } });
    assertEquals(predicted.choices[0]!.message.content, content);
    const { accepted_prediction_tokens: accepted = 0 } = predicted.usage!.completion_tokens_details!;
    assertGreater(accepted, 24);
    // A text of this length is tokenized in the Worker, which the first one starts.
    const long = { ...params, max_tokens: 1, messages: [{ role: "user" as const, content: "a colour ".repeat(700) }] };
    const counts = [];
    for (let i = 0; i < 3; i++) counts.push((await client.chat.completions.create(long)).usage!.prompt_tokens);
    assertEquals(new Set(counts).size, 1);
  }));

Deno.test("serve() keeps answers to the choices of a request", () =>
  withServer({}, async (server) => {
    const choices = ["positive", "negative", "neither of them"];
    const answers = await Promise.all(Array.from({ length: 8 }, async (_, seed) => {
      const messages = [{ role: "user" as const, content: "Is this review positive or negative? I loved it!" }];
      const extra = { guided_choice: choices } as object;
      const params = { model: "SmolLM2-135M-Instruct", messages, seed, temperature: seed === 0 ? 0 : 2, ...extra };
      return (await openai(server).chat.completions.create(params)).choices[0]!;
    }));
    for (const { message, finish_reason } of answers) {
      assertEquals([choices.includes(message.content!), finish_reason], [true, "stop"], message.content!);
    }
  }));

Deno.test("serve() holds twice the tokens with an fp8 cache of the same bytes", async () => {
  const tokens: number[] = [];
  for (const kvCacheDtype of ["bfloat16", "fp8"] as const) {
    await withServer({ kvCacheDtype, kvCacheMemory: { bytes: 23_040 * 2048 } }, async (server) => {
      tokens.push(await metric(server.url, "octavo_kv_cache_tokens"));
      const bytes = await metric(server.url, "octavo_kv_cache_bytes_per_token");
      assertEquals(bytes, kvCacheDtype === "fp8" ? 11_520 : 23_040);
    });
  }
  assertEquals(tokens, [2048, 4096]);
});

Deno.test("serve() gives a client's pages back when it disconnects", () =>
  withServer({}, async (server) => {
    const abort = new AbortController();
    const response = await fetch(`${server.url}/v1/completions`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ prompt: "Once upon a time", max_tokens: 2000, ignore_eos: true, stream: true }),
      signal: abort.signal,
    });
    await response.body!.getReader().read();
    assertGreater(server.engine.stats().kvCacheUsage, 0);
    abort.abort();
    while (server.engine.stats().kvCacheUsage > 0) await new Promise((resolve) => setTimeout(resolve, 5));
    assertEquals(server.engine.stats().requestsFinishedTotal.abort, 1);
  }));

Deno.test("serve() answers a wrong request with OpenAI's envelope and goes on", () =>
  withServer({ apiKey: "secret" }, async (server) => {
    const post = (body: unknown, key = "secret") =>
      fetch(`${server.url}/v1/completions`, {
        method: "POST",
        headers: { "content-type": "application/json", authorization: `Bearer ${key}` },
        body: JSON.stringify(body),
      });
    const tooLong = await post({ prompt: "word ".repeat(2100), max_tokens: 5 });
    const { error } = await tooLong.json();
    assertEquals([tooLong.status, error.type, error.code], [400, "invalid_request_error", "context_length_exceeded"]);
    assertStringIncludes(error.message, "2048");
    const denied = await post({ prompt: "x" }, "wrong");
    assertEquals([denied.status, (await denied.json()).error.code], [401, "invalid_api_key"]);
    const fine = await post({ prompt: "London is the capital of", max_tokens: 4, temperature: 0 });
    assertGreater((await fine.json()).choices[0].text.length, 0);
  }));

Deno.test("serve() lets as many requests wait as maxQueuedRequests allows", () => {
  const model = new URL("../data/tiny/base", import.meta.url).pathname;
  const numRequests = 1100;
  const options = { model, maxModelLen: 512, maxNumSeqs: 1, threads: 1, maxQueuedRequests: numRequests };
  return withServer(options, async (server) => {
    const abort = new AbortController();
    const statuses = await Promise.all(Array.from({ length: numRequests }, async () => {
      const response = await fetch(`${server.url}/v1/completions`, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ prompt: [1], max_tokens: 500, ignore_eos: true, stream: true }),
        signal: abort.signal,
      });
      return { status: response.status, body: response.body! };
    }));
    assertEquals([...new Set(statuses.map(({ status }) => status))], [200]);
    abort.abort();
    await Promise.allSettled(statuses.map(({ body }) => body.cancel()));
  });
});
