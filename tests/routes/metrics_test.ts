import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { fakeApp, FakeEngine, post, reply, USER_MESSAGE } from "./_fake_engine.ts";

async function scrape(app: ReturnType<typeof fakeApp>["app"]): Promise<Map<string, number>> {
  const response = await app.request("/metrics");
  assertMatch(response.headers.get("content-type") ?? "", /^text\/plain; version=0\.0\.4/);
  const text = await response.text();
  const lines = text.split("\n").filter((line) => line !== "" && !line.startsWith("#"));
  for (const line of lines) assertStringIncludes(line, 'model_name="demo"');
  const types = text.match(/^# TYPE \S+/gm) ?? [];
  assertEquals(new Set(types).size, types.length, "a metric is declared twice");
  return new Map(lines.map((line) => {
    const space = line.lastIndexOf(" ");
    return [
      line.slice(0, space).replace(/,?model_name="demo"/, "").replace("{,", "{").replace("{}", ""),
      Number(line.slice(space + 1)),
    ];
  }));
}

Deno.test("/metrics has the engine's figures under Octavo's and vLLM's names", async () => {
  const { app, engine } = fakeApp();
  engine.currentStats = {
    numRequestsRunning: 3,
    numRequestsWaiting: 2,
    kvCacheUsage: 0.25,
    kvCacheUsageByDtype: [0.25],
    promptTokensTotal: 100,
    generationTokensTotal: 50,
    preemptionsTotal: 1,
    prefixCacheQueriesTotal: 90,
    prefixCacheHitsTotal: 64,
    speculativeStepsTotal: 6,
    guessedTokensTotal: 20,
    keptTokensTotal: 15,
    stepsTotal: 40,
    requestsFinishedTotal: { stop: 4, length: 3, abort: 2, deadline: 5, error: 1 },
    lastStepAgeMs: 1,
    kvOffload: null,
    kvCache: {
      numTokens: 10,
      numElements: 640,
      layers: [
        { k: { absmax: 500, numSaturated: 3, error: 0.02 }, v: { absmax: 2, numSaturated: 0, error: 0.01 } },
        { k: { absmax: 9, numSaturated: 4, error: 0.03 }, v: { absmax: 2, numSaturated: 0, error: null } },
      ],
    },
    alive: true,
  };
  for (let scrapes = 0; scrapes < 2; scrapes++) {
    const values = await scrape(app);
    const expected: Record<string, number> = {
      octavo_num_requests_running: 3,
      "vllm:num_requests_running": 3,
      "vllm:num_requests_waiting": 2,
      octavo_kv_cache_usage_ratio: 0.25,
      "vllm:kv_cache_usage_perc": 0.25,
      "vllm:prompt_tokens_total": 100,
      "vllm:generation_tokens_total": 50,
      "vllm:num_preemptions_total": 1,
      "vllm:prefix_cache_queries_total": 90,
      octavo_prefix_cache_hits_total: 64,
      octavo_steps_total: 40,
      'octavo_requests_finished_total{finished_reason="stop"}': 4,
      'vllm:request_success_total{finished_reason="length"}': 3,
      'vllm:request_success_total{finished_reason="abort"}': 2,
      'vllm:cache_config_info{block_size="16",num_gpu_blocks="100",cache_dtype="fp8_e4m3"}': 1,
      octavo_kv_cache_tokens: 1600,
      'octavo_kv_cache_dtype_usage_ratio{kv_cache_dtype="fp8_e4m3"}': 0.25,
      'octavo_kv_cache_elements_total{part="k"}': 640,
      'octavo_kv_cache_saturated_elements_total{part="k"}': 7,
      'octavo_kv_cache_saturated_elements_total{part="v"}': 0,
      'octavo_kv_cache_error_ratio{part="k"}': 0.03,
      octavo_kv_cache_bytes_per_token: 23040,
      octavo_engine_up: 1,
    };
    for (const [name, value] of Object.entries(expected)) assertEquals(values.get(name), value, name);
  }
});

Deno.test("/metrics has the host tier's figures where there is one", async () => {
  const { app, engine } = fakeApp();
  assertEquals([...(await scrape(app)).keys()].filter((name) => name.includes("offload")), []);
  const withHost = Object.assign(new FakeEngine(), { info: { ...engine.info, numHostPages: 50 } });
  const kvOffload = { usage: 0.5, restoredTokensTotal: 48, savedBytesTotal: 7000, restoredBytesTotal: 3000 };
  withHost.currentStats = { ...withHost.currentStats, kvOffload };
  const values = await scrape(fakeApp({ engine: withHost }).app);
  const expected: Record<string, number> = {
    octavo_kv_offload_usage_ratio: 0.5,
    octavo_kv_offload_hits_total: 48,
    octavo_kv_offload_saved_bytes_total: 7000,
    octavo_kv_offload_restored_bytes_total: 3000,
  };
  for (const [name, value] of Object.entries(expected)) assertEquals(values.get(name), value, name);
});

Deno.test("/metrics counts latencies of streams and whole responses, and responses by route", async () => {
  const { app, engine } = fakeApp();
  engine.script = reply("abc");
  for (const stream of [false, true]) {
    await (await post(app, "/v1/chat/completions", { messages: [USER_MESSAGE], stream })).text();
  }
  await (await post(app, "/v1/completions", { prompt: ["a", "b"] })).text();
  await (await app.request("/nothing/secret")).text();
  const values = await scrape(app);
  for (const prefix of ["octavo_", "vllm:"]) {
    assertEquals(values.get(`${prefix}time_to_first_token_seconds_count`), 4);
    assertEquals(values.get(`${prefix}inter_token_latency_seconds_count`), 12);
    assertEquals(values.get(`${prefix}e2e_request_latency_seconds_count`), 4);
  }
  assertEquals(values.get('octavo_http_responses_total{route="/v1/chat/completions",status="200"}'), 2);
  assertEquals(values.get('octavo_http_responses_total{route="unknown",status="404"}'), 1);
});
