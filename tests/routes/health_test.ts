import { assertEquals, assertStringIncludes } from "@std/assert";
import type { EngineStats } from "../../engine/types.ts";
import type { ServerContext } from "../../routes/context.ts";
import { fakeApp } from "./_fake_engine.ts";

const CASES: [string, Partial<EngineStats>, Partial<ServerContext>, number, number][] = [
  ["is idle", { lastStepAgeMs: 1e9 }, {}, 200, 200],
  ["makes progress", { numRequestsRunning: 3, lastStepAgeMs: 50 }, {}, 200, 200],
  ["has its first request and no step yet", { numRequestsRunning: 1, lastStepAgeMs: null }, {}, 200, 200],
  ["stands still with requests running", { numRequestsRunning: 1, lastStepAgeMs: 1001 }, { stallMs: 1000 }, 200, 503],
  ["is draining", {}, { isDraining: () => true }, 200, 503],
  ["has failed", { alive: false }, {}, 503, 503],
];
for (const [name, stats, context, live, ready] of CASES) {
  Deno.test(`health is live ${live}, ready ${ready} when the engine ${name}`, async () => {
    const { app, engine } = fakeApp(context);
    engine.currentStats = { ...engine.currentStats, ...stats };
    for (const [path, status] of [["/health", live], ["/health/live", live], ["/health/ready", ready]] as const) {
      const response = await app.request(path);
      const body = await response.json();
      assertEquals([response.status, response.headers.get("retry-after")], [status, status === 503 ? "5" : null]);
      if (status === 503) assertEquals([body.error.code, body.error.type], ["not_ready", "server_error"]);
    }
    assertEquals(engine.requests.length, 0);
  });
}

Deno.test("/v1/models lists the served names and finds them, slashes and all", async () => {
  const { app } = fakeApp();
  const list = await (await app.request("/v1/models")).json();
  assertEquals(list.object, "list");
  const card = {
    object: "model",
    created: 1_700_000_000,
    owned_by: "octavo",
    root: "demo",
    parent: null,
    max_model_len: 256,
  };
  assertEquals(list.data, [{ id: "demo", ...card }, { id: "org/demo", ...card }]);
  for (const path of ["/v1/models/org/demo", "/v1/models/org%2Fdemo"]) {
    assertEquals((await (await app.request(path)).json()).id, "org/demo");
  }
  for (const path of ["/v1/models/a%0Ab", "/v1/models/%0D"]) {
    const odd = await app.request(path);
    assertEquals([odd.status, (await odd.json()).error.code], [404, "model_not_found"], path);
  }
  const missing = await app.request("/v1/models/other");
  const { error } = await missing.json();
  assertEquals([missing.status, error.code], [404, "model_not_found"]);
  assertStringIncludes(error.message, '"other"');
});

Deno.test("/version says the version", async () => {
  const { app } = fakeApp();
  assertEquals(await (await app.request("/version")).json(), { version: "0.1.0" });
});

Deno.test("/v1/kv says how every layer's cache is stored and where its scales come from", async () => {
  const { app } = fakeApp();
  const scales = { k: [1], v: [1], granularity: "tensor", source: "default" };
  assertEquals(await (await app.request("/v1/kv")).json(), {
    dtype: "fp8_e4m3",
    reason: "given by --kv-cache-dtype",
    page_size: 16,
    num_pages: 100,
    num_tokens: 1600,
    bytes_per_token: 23040,
    dtypes: [{ dtype: "fp8_e4m3", page_size: 16, num_tokens: 1600, bytes_per_token: 23040, usage: 0 }],
    num_host_tokens: 0,
    scales_pending_tokens: null,
    layers: [{ layer: 0, dtype: "fp8_e4m3", scales, k_mean: null }],
  });
});

Deno.test("/v1/kv says what storing costs where that is counted", async () => {
  const { app, engine } = fakeApp();
  const [k, v] = [{ absmax: 500, numSaturated: 4, error: 0.02 }, { absmax: 2, numSaturated: 0, error: null }];
  engine.currentStats = {
    ...engine.currentStats,
    kvCache: { numTokens: 10, numElements: 640, layers: [{ k, v }] },
  };
  const { layers } = await (await app.request("/v1/kv")).json();
  assertEquals(layers[0].stats, {
    num_tokens: 10,
    k: { absmax: 500, saturated: 4 / 640, error: 0.02 },
    v: { absmax: 2, saturated: 0, error: null },
  });
});
