/**
 * `/metrics` in Prometheus' text format, under Octavo's names and, where vLLM has the same thing, under its name too:
 * routers and autoscalers read those. Engine figures come from counters in shared memory, so a scrape never waits for
 * the engine; latencies are measured here, at the HTTP side.
 *
 * @module
 */

import { Hono } from "hono";
import client from "prom-client";
import type { Engine, EngineStats } from "../engine/types.ts";
import type { Server } from "./_server.ts";

/** Octavo's name to vLLM's, for metrics that both have. */
const VLLM_NAMES: Readonly<Record<string, string>> = {
  octavo_num_requests_running: "vllm:num_requests_running",
  octavo_num_requests_waiting: "vllm:num_requests_waiting",
  octavo_kv_cache_usage_ratio: "vllm:kv_cache_usage_perc",
  octavo_prompt_tokens_total: "vllm:prompt_tokens_total",
  octavo_generation_tokens_total: "vllm:generation_tokens_total",
  octavo_preemptions_total: "vllm:num_preemptions_total",
  octavo_prefix_cache_queries_total: "vllm:prefix_cache_queries_total",
  octavo_prefix_cache_hits_total: "vllm:prefix_cache_hits_total",
  octavo_spec_decode_num_drafts_total: "vllm:spec_decode_num_drafts_total",
  octavo_spec_decode_num_draft_tokens_total: "vllm:spec_decode_num_draft_tokens_total",
  octavo_spec_decode_num_accepted_tokens_total: "vllm:spec_decode_num_accepted_tokens_total",
  octavo_requests_finished_total: "vllm:request_success_total",
  octavo_time_to_first_token_seconds: "vllm:time_to_first_token_seconds",
  octavo_inter_token_latency_seconds: "vllm:inter_token_latency_seconds",
  octavo_e2e_request_latency_seconds: "vllm:e2e_request_latency_seconds",
};

const TTFT_BUCKETS = [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80];
const ITL_BUCKETS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5];
const E2E_BUCKETS = [0.05, 0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480];

/** The server's metrics. */
export class Metrics {
  readonly #registry = new client.Registry();
  readonly #engine: Engine;
  /** Each brings one metric up to date; the engine is read once per scrape, so that its figures belong together. */
  readonly #updates: ((stats: EngineStats) => void)[] = [];
  readonly #labels: { readonly model_name: string };
  readonly #ttft: client.Histogram;
  readonly #itl: client.Histogram;
  readonly #e2e: client.Histogram;
  readonly #responses: client.Counter;
  readonly #cutStreams: client.Counter;

  constructor(engine: Engine, modelName: string) {
    this.#engine = engine;
    this.#labels = { model_name: modelName };
    this.#addEngineMetrics();
    this.#ttft = this.#histogram(
      "time_to_first_token_seconds",
      "From a request's arrival to its first token.",
      TTFT_BUCKETS,
    );
    this.#itl = this.#histogram(
      "inter_token_latency_seconds",
      "Between successive steps of one sequence.",
      ITL_BUCKETS,
    );
    this.#e2e = this.#histogram("e2e_request_latency_seconds", "From a request's arrival to its end.", E2E_BUCKETS);
    this.#responses = this.#counter("http_responses_total", "Responses by route and status.", ["route", "status"]);
    this.#cutStreams = this.#counter(
      "http_cut_responses_total",
      "Generations that their client did not see the end of.",
      ["reason"],
    );
  }

  observeFirstToken(seconds: number): void {
    this.#ttft.observe(this.#labels, seconds);
  }

  observeInterToken(seconds: number): void {
    this.#itl.observe(this.#labels, seconds);
  }

  observeEnd(seconds: number): void {
    this.#e2e.observe(this.#labels, seconds);
  }

  /** @param route The route's pattern, never the raw path: labels must stay few. */
  countResponse(route: string, status: number): void {
    this.#responses.inc({ ...this.#labels, route, status: String(status) });
  }

  /** A client went away, or read too slowly, before the end. */
  countCut(reason: string): void {
    this.#cutStreams.inc({ ...this.#labels, reason });
  }

  /** All metrics as text. */
  async render(): Promise<string> {
    const stats = this.#engine.stats();
    for (const update of this.#updates) update(stats);
    const parts = await Promise.all(
      this.#registry.getMetricsAsArray().map(async ({ name }) => {
        const own = await this.#registry.getSingleMetricAsString(name);
        const alias = VLLM_NAMES[name];
        return alias === undefined ? own : `${own}\n${own.replaceAll(name, alias)}`;
      }),
    );
    return `${parts.join("\n")}\n`;
  }

  #addSpeculation(): void {
    this.#total(
      "spec_decode_num_drafts_total",
      "Sequences' steps that held guesses.",
      (stats) => stats.speculativeStepsTotal,
    );
    this.#total("spec_decode_num_draft_tokens_total", "Tokens guessed.", (stats) => stats.guessedTokensTotal);
    this.#total(
      "spec_decode_num_accepted_tokens_total",
      "Tokens guessed that were right.",
      (stats) => stats.keptTokensTotal,
    );
  }

  #addEngineMetrics(): void {
    const { info } = this.#engine;
    this.#gauge("num_requests_running", "Requests in the running batch.", (stats) => stats.numRequestsRunning);
    this.#gauge("num_requests_waiting", "Requests that wait to be admitted.", (stats) => stats.numRequestsWaiting);
    this.#gauge("kv_cache_usage_ratio", "Used part of the KV cache's pages, 0 to 1.", (stats) => stats.kvCacheUsage);
    this.#gauge("kv_cache_tokens", "Tokens that the KV cache holds.", () => info.numKvTokens);
    this.#gauge("kv_cache_bytes_per_token", "Bytes of KV cache that a token takes.", () => info.kvBytesPerToken);
    this.#gauge("weight_bytes", "Bytes of the model's weights in memory.", () => info.weightBytes);
    this.#gauge("engine_up", "1 while the engine runs.", (stats) => Number(stats.alive));
    this.#total("prompt_tokens_total", "Prompt tokens processed.", (stats) => stats.promptTokensTotal);
    this.#total("generation_tokens_total", "Tokens generated.", (stats) => stats.generationTokensTotal);
    this.#total("preemptions_total", "Sequences put back to wait for memory.", (stats) => stats.preemptionsTotal);
    this.#total(
      "prefix_cache_queries_total",
      "Prompt tokens looked up in the prefix cache.",
      (stats) => stats.prefixCacheQueriesTotal,
    );
    this.#total(
      "prefix_cache_hits_total",
      "Prompt tokens found in the prefix cache.",
      (stats) => stats.prefixCacheHitsTotal,
    );
    this.#addSpeculation();
    this.#total("steps_total", "Steps of the engine.", (stats) => stats.stepsTotal);
    this.#addKvDtypes();
    if (info.numHostPages > 0) this.#addKvOffload();
    this.#addKvCache();
    this.#addFinished();
    this.#addCacheConfig();
  }

  #addKvDtypes(): void {
    const usage = new client.Gauge({
      name: "octavo_kv_cache_dtype_usage_ratio",
      help: "Part of the KV cache's pages that sequences of a KV dtype use, 0 to 1.",
      labelNames: ["model_name", "kv_cache_dtype"],
      registers: [this.#registry],
    });
    this.#updates.push(({ kvCacheUsageByDtype }) => {
      this.#engine.info.kvCacheDtypes.forEach(({ dtype }, i) =>
        usage.set({ ...this.#labels, kv_cache_dtype: dtype }, kvCacheUsageByDtype[i] ?? 0)
      );
    });
  }

  #addKvOffload(): void {
    this.#gauge(
      "kv_offload_usage_ratio",
      "Used part of the KV cache's host memory, 0 to 1.",
      (stats) => stats.kvOffload?.usage ?? 0,
    );
    this.#total(
      "kv_offload_hits_total",
      "Prompt tokens brought back from host memory.",
      (stats) => stats.kvOffload?.restoredTokensTotal ?? 0,
    );
    this.#total(
      "kv_offload_saved_bytes_total",
      "Bytes of the KV cache copied to host memory.",
      (stats) => stats.kvOffload?.savedBytesTotal ?? 0,
    );
    this.#total(
      "kv_offload_restored_bytes_total",
      "Bytes of the KV cache copied back from host memory.",
      (stats) => stats.kvOffload?.restoredBytesTotal ?? 0,
    );
  }

  /** Without samples while nothing is counted: a 0 would say that nothing saturates. */
  #addKvCache(): void {
    const elements = this.#counter("kv_cache_elements_total", "Elements stored in the KV cache, of K and of V.", [
      "part",
    ]);
    const saturated = this.#counter(
      "kv_cache_saturated_elements_total",
      "Elements of K and V stored as their format's largest value because they are beyond it.",
      ["part"],
    );
    const error = new client.Gauge({
      name: "octavo_kv_cache_error_ratio",
      help: "Root mean square error of what is stored of K and V, as a part of theirs; of the layer with the largest.",
      labelNames: ["model_name", "part"],
      registers: [this.#registry],
    });
    this.#updates.push(({ kvCache }) => {
      elements.reset();
      saturated.reset();
      if (kvCache === null) return;
      for (const part of ["k", "v"] as const) {
        const labels = { ...this.#labels, part };
        const parts = kvCache.layers.map((layer) => layer[part]);
        elements.inc(labels, kvCache.numElements);
        saturated.inc(labels, parts.reduce((sum, { numSaturated }) => sum + numSaturated, 0));
        error.set(labels, Math.max(...parts.map((one) => one.error ?? 0)));
      }
    });
  }

  #addFinished(): void {
    const counter = this.#counter("requests_finished_total", "Requests that ended, by reason.", ["finished_reason"]);
    this.#updates.push(({ requestsFinishedTotal }) => {
      counter.reset();
      for (const [reason, count] of Object.entries(requestsFinishedTotal)) {
        counter.inc({ ...this.#labels, finished_reason: reason }, count);
      }
    });
  }

  #addCacheConfig(): void {
    const { pageSize, numPages, kvCacheDtype } = this.#engine.info;
    const gauge = new client.Gauge({
      name: "vllm:cache_config_info",
      help: "The KV cache's page size, pages and dtype.",
      labelNames: ["model_name", "block_size", "num_gpu_blocks", "cache_dtype"],
      registers: [this.#registry],
    });
    gauge.set({ ...this.#labels, block_size: pageSize, num_gpu_blocks: numPages, cache_dtype: kvCacheDtype }, 1);
  }

  #gauge(name: string, help: string, read: (stats: EngineStats) => number): void {
    const gauge = new client.Gauge({
      name: `octavo_${name}`,
      help,
      labelNames: ["model_name"],
      registers: [this.#registry],
    });
    this.#updates.push((stats) => gauge.set(this.#labels, read(stats)));
  }

  /** A counter whose value the engine keeps. */
  #total(name: string, help: string, read: (stats: EngineStats) => number): void {
    const counter = this.#counter(name, help, []);
    this.#updates.push((stats) => {
      counter.reset();
      counter.inc(this.#labels, read(stats));
    });
  }

  #counter(name: string, help: string, labels: string[]): client.Counter {
    return new client.Counter({
      name: `octavo_${name}`,
      help,
      labelNames: ["model_name", ...labels],
      registers: [this.#registry],
    });
  }

  #histogram(name: string, help: string, buckets: number[]): client.Histogram {
    return new client.Histogram({
      name: `octavo_${name}`,
      help,
      labelNames: ["model_name"],
      registers: [this.#registry],
      buckets,
    });
  }
}

/** The metrics route. */
export function metricsRoutes({ metrics }: Server): Hono {
  return new Hono().get("/metrics", async (c) => {
    return c.body(await metrics.render(), 200, { "content-type": client.Registry.PROMETHEUS_CONTENT_TYPE });
  });
}
