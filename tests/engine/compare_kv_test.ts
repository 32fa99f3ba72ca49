/** `Engine.compareKv()` with the Worker, the native library and a tiny checkpoint. */

import { assert, assertEquals, assertRejects } from "@std/assert";
import { collect } from "../../engine/collect.ts";
import { EngineError, OverloadedError, RequestError } from "../../engine/errors.ts";
import { startEngine, type StartEngineOptions } from "../../engine/start_engine.ts";
import type { Engine, KvCompareRequest } from "../../engine/types.ts";
import { openModel } from "../../models/open_model.ts";
import { dataPath } from "../models/_fixtures.ts";
import { greedy } from "./_fake_model.ts";

const MODEL = await openModel(dataPath("tiny/base"));
const PROMPT = Array.from({ length: 40 }, (_, i) => (11 * i * i + 5) % 320);

function start(options: Partial<StartEngineOptions> = {}): Promise<Engine> {
  return startEngine({
    model: MODEL,
    kvCacheDtype: "fp8",
    kvCacheMemory: { bytes: 16 * 2 ** 20 },
    pageSize: 16,
    numThreads: 1,
    maxQueuedRequests: 100,
    device: "cpu",
    ...options,
  });
}

function request(changes: Partial<KvCompareRequest> = {}): KvCompareRequest {
  return { promptTokenIds: PROMPT, maxTokens: 8, reference: null, kvCacheDtype: null, ...changes };
}

Deno.test("compareKv() compares the engine's own cache with an exact one while requests run", async () => {
  await using engine = await start();
  const sampling = greedy({ maxTokens: 60, ignoreEos: true });
  const alone = await collect(engine, { id: "alone", promptTokenIds: PROMPT, sampling }).outputs;
  const beside = collect(engine, { id: "beside", promptTokenIds: PROMPT, sampling });
  const result = await engine.compareKv(request());
  assertEquals([result.reference, result.kvCacheDtype], ["float32", "fp8_e4m3"]);
  assertEquals(result.tokens.slice(0, 39).map(({ tokenId }) => tokenId), PROMPT.slice(1));
  assert(result.tokens.length > 39 && result.tokens.length <= 47);
  assert(result.tokens.some(({ kl }) => kl > 0) && result.tokens.every(({ kl }) => kl > -1e-6 && kl < 0.1));
  assertEquals((await beside.outputs)[0].tokenIds, alone[0].tokenIds);
  // Again, with another cache; the engines of the first are gone.
  const int4 = await engine.compareKv(request({ kvCacheDtype: "int4", reference: "fp8" }));
  assertEquals([int4.reference, int4.kvCacheDtype], ["fp8_e4m3", "int4"]);
});

Deno.test("compareKv() refuses what can never run, naming the field", async () => {
  await using engine = await start();
  const cases: [Partial<KvCompareRequest>, string, string][] = [
    [{ promptTokenIds: [] }, "prompt", "no tokens"],
    [{ promptTokenIds: [320] }, "prompt", "0 to 319, received 320"],
    [{ maxTokens: 473 }, "prompt", "A comparison holds 512 tokens, the request needs 513"],
    [{ kvCacheDtype: "float32" }, "kv_cache_dtype", "must differ, received float32 twice"],
    [{ reference: "int3" }, "reference", 'received "int3"'],
  ];
  for (const [changes, param, message] of cases) {
    const error = await assertRejects(() => engine.compareKv(request(changes)), RequestError, message);
    assertEquals(error.param, param);
  }
});

Deno.test("compareKv() runs one at a time, ends when aborted, and fails when the engine closes", async () => {
  const engine = await start();
  const gone = new AbortController();
  const first = engine.compareKv(request({ maxTokens: 400 }), gone.signal);
  await assertRejects(() => engine.compareKv(request()), OverloadedError, "one runs at a time");
  gone.abort(new Error("gone"));
  await assertRejects(() => first, Error, "gone");
  assertEquals((await engine.compareKv(request({ maxTokens: 0 }))).tokens.length, 39);
  const last = engine.compareKv(request({ maxTokens: 400 }));
  const closed = assertRejects(() => last, EngineError, "closed");
  await engine.close();
  await closed;
  await assertRejects(() => engine.compareKv(request()), EngineError, "closed");
});

Deno.test("compareKv() uses the scales that the engine calculated", async () => {
  await using engine = await start({ calculateKvScales: true });
  const before = await engine.compareKv(request());
  const sampling = greedy({ maxTokens: 1, ignoreEos: true });
  await collect(engine, { id: "first", promptTokenIds: PROMPT, sampling }).outputs;
  const after = await engine.compareKv(request());
  assert(before.tokens.some(({ kl }, i) => kl !== after.tokens[i]?.kl));
});
