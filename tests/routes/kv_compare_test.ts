import { assertAlmostEquals, assertEquals, assertStringIncludes } from "@std/assert";
import { EngineError, OverloadedError, RequestError } from "../../engine/errors.ts";
import type { ComparedToken } from "../../engine/token_comparison.ts";
import type { KvCompareRequest } from "../../engine/types.ts";
import { BOS, fakeApp, post } from "./_fake_engine.ts";

const PATH = "/v1/kv/compare";
const TOKENS: readonly ComparedToken[] = [
  { tokenId: 98, isPrompt: true, kl: 0.25, referenceLogprob: -1, logprob: -2, referenceTop: 98, top: 99 },
  { tokenId: 99, isPrompt: false, kl: 0.75, referenceLogprob: -0.5, logprob: -Infinity, referenceTop: 99, top: 100 },
];

function app(context: Parameters<typeof fakeApp>[0] = { enablesKvCompare: true }) {
  const fake = fakeApp(context);
  const requests: KvCompareRequest[] = [];
  fake.engine.compare = (request) => {
    requests.push(request);
    return Promise.resolve({ reference: "float32", kvCacheDtype: "int8", tokens: TOKENS });
  };
  return { ...fake, requests };
}

Deno.test("/v1/kv/compare is refused with the way to allow it unless it was enabled", async () => {
  const { app: off, requests } = app({});
  const response = await post(off, PATH, { prompt: "ab" });
  const { error } = await response.json();
  assertEquals([response.status, error.code], [403, "kv_compare_disabled"]);
  assertStringIncludes(error.message, "--enable-kv-compare");
  assertEquals(requests, []);
});

Deno.test("/v1/kv/compare tells KL and the token's probability under both caches, token by token", async () => {
  const { app: on, requests } = app();
  const response = await post(on, PATH, { prompt: "ab", kv_cache_dtype: "int8", reference: "float32", max_tokens: 1 });
  assertEquals(response.status, 200);
  const { tokens, ...rest } = await response.json();
  assertEquals(requests, [
    { promptTokenIds: [BOS, 97, 98], maxTokens: 1, reference: "float32", kvCacheDtype: "int8" },
  ]);
  assertEquals(rest, {
    object: "kv.comparison",
    model: "demo",
    reference: "float32",
    kv_cache_dtype: "int8",
    kl_mean: 0.5,
    kl_max: 0.75,
    top1_agreement: 0,
    first_divergence: 0,
    usage: {
      prompt_tokens: 3,
      completion_tokens: 1,
      total_tokens: 4,
      prompt_tokens_details: { cached_tokens: 0 },
    },
  });
  assertEquals(tokens[0].token, "b");
  assertEquals([tokens[0].part, tokens[1].part], ["prompt", "output"]);
  assertAlmostEquals(tokens[0].reference_probability, Math.exp(-1));
  assertAlmostEquals(tokens[0].probability, Math.exp(-2));
  assertEquals([tokens[1].logprob, tokens[1].probability], [-9999, 0]);
  assertEquals(tokens[1].top, { token: "d", token_id: 100 });
  assertEquals(tokens[1].reference_top, { token: "c", token_id: 99 });
});

Deno.test("/v1/kv/compare fills in defaults, and takes token ids", async () => {
  const { app: on, requests } = app();
  await post(on, PATH, { prompt: [5, 6] });
  assertEquals(requests, [{ promptTokenIds: [5, 6], maxTokens: 32, reference: null, kvCacheDtype: null }]);
});

Deno.test("/v1/kv/compare answers what is wrong as 4xx in OpenAI's envelope", async () => {
  const { app: on, engine } = app();
  const status = async (body: unknown) => {
    const response = await post(on, PATH, body);
    const { error } = await response.json();
    return [response.status, error.param, error.code];
  };
  assertEquals((await status({}))[0], 400);
  assertEquals((await status({ prompt: ["a", "b"] }))[0], 400);
  assertEquals(await status({ prompt: "a", kv_cache_dtype: "auto" }), [400, "kv_cache_dtype", null]);
  assertEquals(await status({ prompt: "a", max_tokens: 257 }), [400, "max_tokens", null]);
  assertEquals(await status({ prompt: "a", model: "other" }), [404, "model", "model_not_found"]);
  const cases: [Error, number][] = [
    [new RequestError("too long", { param: "prompt" }), 400],
    [new OverloadedError("one at a time"), 429],
    [new EngineError("closed"), 503],
  ];
  for (const [error, expected] of cases) {
    engine.compare = () => Promise.reject(error);
    assertEquals((await status({ prompt: "a" }))[0], expected);
  }
});

Deno.test("/v1/kv/compare ends the comparison when the client goes away", async () => {
  const { app: on, engine } = app();
  const gone = new AbortController();
  engine.compare = (_, signal) =>
    new Promise((_, reject) => {
      signal!.addEventListener("abort", () => reject(signal!.reason));
      gone.abort();
    });
  const response = await post(on, PATH, { prompt: "a" }, { signal: gone.signal });
  assertEquals(response.status, 400);
  await response.body?.cancel();
});
