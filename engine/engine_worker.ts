/**
 * The engine's Worker: opens the native library, loads the model, then runs the step loop until it is closed. All
 * native calls come from this one thread.
 *
 * @module
 */

import { Library, NativeError, type OpenDevice, openDevice } from "../ffi/library.ts";
import { type KvKind, NativeEngine } from "../ffi/native_engine.ts";
import type { NativeModel } from "../ffi/native_model.ts";
import { Counters } from "./counters.ts";
import { HostTier } from "./host_tier.ts";
import { planHostPages, planKvPages } from "./kv_cache_plan.ts";
import { KvScaleWindow } from "./kv_scale_window.ts";
import { KvStatsReporter } from "./kv_stats_reporter.ts";
import { KvComparer } from "./kv_comparer.ts";
import { KvComparison } from "./kv_comparison.ts";
import { calculatedKvScales, nativeKMean, nativeKvScales, takesKvScales } from "./kv_scales.ts";
import { loadModel } from "./load_model.ts";
import { MailboxReceiver } from "./mailbox.ts";
import type { EngineMessage, EngineSettings, StartMessage, WorkerMessage, WorkerModel } from "./messages.ts";
import { PageGuard } from "./page_guard.ts";
import { speculationOptions } from "./speculator.ts";
import { mixedStepRule, type StepSizes, stepSizes } from "./step_sizes.ts";
import { StepLoop } from "./step_loop.ts";
import type { KvCacheDtype } from "./types.ts";
import { runWorkerLoop } from "./worker_loop.ts";

declare const self: DedicatedWorkerGlobalScope;
interface DedicatedWorkerGlobalScope {
  onmessage: ((event: MessageEvent<StartMessage>) => void) | null;
  postMessage(message: WorkerMessage): void;
}

const post = (message: WorkerMessage) => self.postMessage(message);

self.onmessage = async ({ data }) => {
  const mailbox = new MailboxReceiver<EngineMessage>(data.mailbox);
  try {
    await run(data, mailbox);
  } catch (error) {
    post({ type: "failed", message: error instanceof Error ? error.message : String(error) });
  }
  mailbox.close();
  post({ type: "closed" });
};

async function run({ model, settings, counters }: StartMessage, mailbox: MailboxReceiver<EngineMessage>) {
  const device = settings.library === null
    ? await openDevice(settings.device)
    : { library: new Library(settings.library), whyCpu: null };
  using library = device.library;
  const { backend } = library.deviceInfo();
  if (backend === "cpu" && settings.quantization !== "none") {
    throw new RangeError(`--quantization ${settings.quantization} needs a GPU, but the engine runs on the CPU`);
  }
  using nativeModel = loadModel(
    library,
    model,
    settings,
    (doneBytes, totalBytes) => post({ type: "progress", doneBytes, totalBytes }),
  );
  const sizes = stepSizes(settings, backend, model.config.vocabSize);
  const { engine, numPages, numHostPages } = openEngine(nativeModel, settings, sizes);
  using _engine = engine;
  const pageBytes = kvPageBytes(nativeModel, settings);
  const [{ pageSize }, ...moreKinds] = settings.kvKinds as [KvKind, ...KvKind[]];
  const loop = new StepLoop(engine, {
    pageSize,
    morePageSizes: moreKinds.map((kind) => kind.pageSize),
    numPages,
    vocabSize: model.config.vocabSize,
    tokenTable: model.tokenTable,
    eosTokenIds: model.eosTokenIds,
    counters: new Counters(counters),
    // All pages of a process have one model, dtype and page size: the name says so, should they ever be kept longer.
    kvFingerprint: settings.enablePrefixCaching ? kvFingerprint(model, settings) : null,
    kvScaleWindow: kvScaleWindow(engine, settings),
    hostTier: numHostPages > 0 ? new HostTier(engine, { numHostPages, numPages, pageBytes }) : null,
    pageGuard: settings.checkPages ? new PageGuard((page) => engine.pageChecksum(page)) : null,
    speculation: speculationOptions(settings, sizes.numSpeculativeTokens, backend),
    looksAhead: backend !== "cpu",
    mixedStepTokens: mixedStepRule(settings, backend),
    warn: (message) => post({ type: "warning", message }),
  });
  post(readyMessage({ device, nativeModel, model, settings, sizes, numPages, numHostPages }));
  const reporter = settings.kvCacheStats
    ? new KvStatsReporter(engine, model.config, (stats) => post({ type: "kv_stats", stats }))
    : null;
  // With calculated scales, the engine alone knows those in use.
  const { kvKinds, numThreads, kvScaleTokens } = settings;
  const isCalculated = (dtype: KvCacheDtype) =>
    kvScaleTokens !== null && takesKvScales(dtype) && kvKinds.some(({ kvDtype }) => kvDtype === dtype);
  const comparer = new KvComparer({
    eosTokenIds: model.eosTokenIds,
    open: ({ variants, maxTokens }) =>
      new KvComparison(nativeModel, {
        variants: variants.map((one) => isCalculated(one.dtype) ? { ...one, scales: engine.kvScales() } : one),
        maxTokens,
        numThreads,
      }),
  });
  runWorkerLoop(loop, mailbox, post, { comparer, afterStep: (isIdle) => reporter?.afterStep(isIdle) });
}

/** Bytes of a page, all layers: of the dtype that fills it best. */
function kvPageBytes(nativeModel: NativeModel, { kvKinds }: EngineSettings): number {
  return Math.max(...kvKinds.map(({ kvDtype, pageSize }) => nativeModel.kvPageBytes(kvDtype, pageSize)));
}

/** Null where no scales are calculated. */
function kvScaleWindow(engine: NativeEngine, settings: EngineSettings): KvScaleWindow | null {
  if (settings.kvScaleTokens === null) return null;
  const scaled = settings.kvKinds.map(({ kvDtype }) => kvDtype).find(takesKvScales) ?? settings.kvCacheDtype;
  const layerDtypes = settings.layerKvDtypes.map((dtype) => dtype ?? scaled);
  return new KvScaleWindow(
    engine,
    settings.kvScaleTokens,
    (scales, numTokens) => post({ type: "kv_scales", layers: calculatedKvScales(scales, layerDtypes), numTokens }),
  );
}

/** What beside the tokens decides a page's contents. */
function kvFingerprint({ paths }: WorkerModel, settings: EngineSettings): string {
  const { kvKinds, layerKvDtypes, kvScales, kMeans, kvScaleTokens, quantization } = settings;
  // Calculated scales are added once they are set.
  const scales = kvScaleTokens === null ? kvScales : "calculated";
  const means = kMeans.map((mean) => mean?.values.join() ?? null);
  return JSON.stringify([paths, kvKinds, layerKvDtypes, scales, means, quantization]);
}

/** Opens the engine with as many pages as the memory holds. */
function openEngine(nativeModel: NativeModel, settings: EngineSettings, sizes: StepSizes) {
  const [first, ...moreKvDtypes] = settings.kvKinds as [KvKind, ...KvKind[]];
  const config = {
    ...first,
    moreKvDtypes,
    numPages: 1,
    maxNumSeqs: sizes.maxNumSeqs,
    maxNumBatchedTokens: sizes.maxNumBatchedTokens,
    maxSamples: sizes.maxSamples,
    maxPagesPerSeq: Math.ceil(settings.maxModelLen / Math.min(...settings.kvKinds.map(({ pageSize }) => pageSize))),
    maxLogprobs: settings.maxLogprobs,
    maxLogitEdits: sizes.maxLogitEdits,
    maxTokenMasks: sizes.maxTokenMasks,
    tokenMaskWords: sizes.tokenMaskWords,
    maxScores: sizes.maxScores,
    numThreads: settings.numThreads,
    calculateKvScales: settings.kvScaleTokens !== null,
    kvStats: settings.kvCacheStats ? "errors" as const : "off" as const,
  };
  const scratchBytes = NativeEngine.scratchBytes(nativeModel, config);
  const memory = { ...nativeModel.library.deviceInfo(), scratchBytes };
  const pageBytes = kvPageBytes(nativeModel, settings);
  const numPages = planKvPages({ ...settings, ...sizes, pageBytes, memory });
  const numHostPages = planHostPages(settings.kvOffloadBytes, pageBytes);
  const kvScales = nativeKvScales(settings.kvScales, nativeModel.config.numKvHeads);
  const kMean = nativeKMean(settings.kMeans, nativeModel.config);
  try {
    const engine = new NativeEngine(nativeModel, { ...config, numPages, numHostPages }, kvScales, kMean);
    return { engine, numPages, numHostPages };
  } catch (error) {
    if (memory.backend === "cpu" || !(error instanceof NativeError) || !/out of memory/.test(error.message)) {
      throw error;
    }
    const message = `The engine does not fit the GPU's memory (something else may use it too): ${error.message}. ` +
      `Lower --gpu-memory-utilization or --max-num-batched-tokens`;
    throw new NativeError(message, error.status);
  }
}

function readyMessage(parts: {
  device: OpenDevice;
  nativeModel: NativeModel;
  model: WorkerModel;
  settings: EngineSettings;
  sizes: StepSizes;
  numPages: number;
  numHostPages: number;
}): WorkerMessage {
  const { device, nativeModel, model, settings, sizes, numPages, numHostPages } = parts;
  const { kvKinds, maxModelLen, maxLogprobs } = settings;
  const [{ pageSize }] = kvKinds as [KvKind];
  const pageBytes = kvPageBytes(nativeModel, settings);
  const { maxNumSeqs, maxNumBatchedTokens, maxLogitEdits } = sizes;
  const { backend, name, isa, numCores } = device.library.deviceInfo();
  return {
    type: "ready",
    info: {
      kvCacheDtype: settings.kvCacheDtype,
      kvCacheDtypes: kvKinds.map((kind) => ({
        dtype: kind.kvDtype,
        pageSize: kind.pageSize,
        numKvTokens: numPages * kind.pageSize,
        bytesPerToken: pageBytes / kind.pageSize,
      })),
      kvCacheDtypeReason: settings.kvCacheDtypeReason,
      kvLayers: settings.kvScales.map((scales, layer) => ({
        dtype: settings.layerKvDtypes[layer] ?? settings.kvCacheDtype,
        scales: settings.kvScaleTokens === null ? scales : null,
        kMean: settings.kMeans[layer]?.source ?? null,
      })),
      kvScaleTokens: settings.kvScaleTokens,
      pageSize,
      numPages,
      numKvTokens: numPages * pageSize,
      numHostPages,
      kvBytesPerToken: pageBytes / pageSize,
      kvBytesPerTokenBfloat16: nativeModel.kvPageBytes("bfloat16", pageSize) / pageSize,
      weightBytes: nativeModel.weightBytes,
      maxModelLen,
      maxNumSeqs,
      maxNumBatchedTokens,
      maxLogprobs,
      numThreads: settings.numThreads || numCores,
      device: { backend, name, isa, whyCpu: device.whyCpu },
    },
    limits: {
      maxModelLen,
      vocabSize: model.config.vocabSize,
      numEosTokenIds: model.eosTokenIds.length,
      kvKinds,
      numPages,
      maxNumSeqs,
      maxLogprobs,
      maxLogitEdits,
    },
  };
}
