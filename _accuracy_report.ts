/**
 * What `octavo eval-kv` found: as JSON, as tables for a terminal, and as a chart.
 *
 * @module
 */

import { accuracyChart } from "./_accuracy_chart.ts";
import { alignColumns } from "./_table.ts";
import type { KvAccuracy } from "./engine/kv_accuracy.ts";
import type { KvRetrieval } from "./engine/kv_retrieval.ts";
import type { ModelFiles } from "./models/types.ts";

/** What was measured, and on what. */
export interface AccuracyReport {
  readonly model: Pick<ModelFiles, "name" | "source" | "config">;
  /** Name of the processor or card. */
  readonly device: string;
  /** Token ids. */
  readonly samples: readonly (readonly number[])[];
  readonly maxSeqLen: number;
  /** The reference first. */
  readonly caches: readonly CacheAccuracy[];
  readonly retrieval: readonly Retrieval[];
}

/** One cache's accuracy and size. */
export interface CacheAccuracy extends KvAccuracy {
  /** Of K and V over all layers, scales included. */
  readonly bytesPerToken: number;
}

/** What the caches found in one context. */
export interface Retrieval {
  /** In tokens. */
  readonly contextLength: number;
  /** Of each cache, in their order. */
  readonly found: readonly KvRetrieval[];
}

/** What the JSON file holds. */
export interface ReportJson {
  readonly model: string;
  readonly source: string;
  readonly device: string;
  readonly data: { readonly samples: number; readonly tokens: number; readonly max_seq_len: number };
  readonly reference: string;
  /** The reference's first. */
  readonly caches: readonly Record<string, unknown>[];
  readonly retrieval: readonly { readonly context_length: number; readonly caches: readonly KvRetrieval[] }[];
}

export function reportJson(report: AccuracyReport): ReportJson {
  const { model, device, samples, maxSeqLen, caches, retrieval } = report;
  return {
    model: model.name,
    source: model.source,
    device,
    data: { samples: samples.length, tokens: numTokens(report), max_seq_len: maxSeqLen },
    reference: caches[0]!.name,
    caches: caches.map((cache) => ({
      name: cache.name,
      bytes_per_token: cache.bytesPerToken,
      bits_per_value: bitsPerValue(report, cache),
      perplexity: cache.perplexity,
      delta_nll: cache.deltaNll,
      delta_nll_stderr: cache.deltaNllStderr,
      kl_mean: cache.klMean,
      kl_p99: cache.klP99,
      kl_max: cache.klMax,
      top1_agreement: cache.top1Agreement,
      greedy: cache.greedy,
    })),
    retrieval: retrieval.map(({ contextLength, found }) => ({ context_length: contextLength, caches: found })),
  };
}

export function reportChart(report: AccuracyReport): string {
  const [reference, ...others] = report.caches;
  const tokens = numTokens(report).toLocaleString("en");
  const title = `${report.model.name}: KV caches beside ${reference!.name}, ${tokens} tokens`;
  return accuracyChart(title, others.map((cache) => ({ ...cache, bitsPerValue: bitsPerValue(report, cache) })));
}

function numTokens({ samples }: AccuracyReport): number {
  return samples.reduce((sum, { length }) => sum + length, 0);
}

function bitsPerValue({ model }: AccuracyReport, { bytesPerToken }: CacheAccuracy): number {
  const { numLayers, numKvHeads, headDim } = model.config;
  return 8 * bytesPerToken / (2 * numLayers * numKvHeads * headDim);
}

/** A line a cache. */
export function accuracyTable(report: AccuracyReport): string {
  const head = ["cache", "bits", "perplexity", "mean KL", "p99 KL", "same top-1", "greedy the same"];
  return alignColumns([
    head,
    ...report.caches.map((cache, i) => [
      cache.name,
      `${Number(bitsPerValue(report, cache).toFixed(2))}`,
      cache.perplexity.toFixed(3),
      ...i === 0 ? ["reference", "", "", ""] : [
        cache.klMean.toPrecision(2),
        cache.klP99.toPrecision(2),
        `${(100 * cache.top1Agreement).toFixed(2)} %`,
        cache.greedy === null ? "" : `${cache.greedy.tokens.toFixed(1)} of ${cache.greedy.of} tokens`,
      ],
    ]),
  ]);
}

/** A line a cache, a column a context length. */
export function retrievalTable(retrieval: readonly Retrieval[]): string {
  const cell = ({ keys }: KvRetrieval) => {
    const logprob = keys.reduce((sum, key) => sum + key.logprob, 0) / keys.length;
    return `${keys.filter(({ found }) => found).length} of ${keys.length} (${logprob.toFixed(2)})`;
  };
  return alignColumns([
    ["keys found (mean log-probability)", ...retrieval.map(({ contextLength }) => `${contextLength}`)],
    ...retrieval[0]!.found.map(({ name }, i) => [name, ...retrieval.map(({ found }) => cell(found[i]!))]),
  ]);
}
