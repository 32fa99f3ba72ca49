/**
 * The engine's Worker: opens the native library, loads the model, then runs the step loop until it is closed. All
 * native calls come from this one thread.
 *
 * @module
 */

import { Library, openLibrary } from "../ffi/library.ts";
import { NativeEngine } from "../ffi/native_engine.ts";
import { NativeModel } from "../ffi/native_model.ts";
import { Counters } from "./counters.ts";
import { planKvPages } from "./kv_cache_plan.ts";
import { MailboxReceiver } from "./mailbox.ts";
import type { EngineMessage, EngineSettings, StartMessage, WorkerMessage, WorkerModel } from "./messages.ts";
import { StepLoop } from "./step_loop.ts";
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
  const { device } = settings;
  using library = settings.library === null ? await openLibrary({ device }) : new Library(settings.library);
  using nativeModel = loadModel(library, model, settings);
  const pageBytes = nativeModel.kvPageBytes(settings.kvCacheDtype, settings.pageSize);
  const { memoryFreeBytes } = library.deviceInfo();
  const numPages = planKvPages({ ...settings, pageBytes, memoryFreeBytes });
  using engine = openEngine(nativeModel, settings, numPages);
  const loop = new StepLoop(engine, {
    pageSize: settings.pageSize,
    numPages,
    vocabSize: model.config.vocabSize,
    tokenTable: model.tokenTable,
    eosTokenIds: model.eosTokenIds,
    counters: new Counters(counters),
    warn: (message) => post({ type: "warning", message }),
  });
  post(readyMessage({ library, nativeModel, model, settings, pageBytes, numPages }));
  runWorkerLoop(loop, mailbox, post);
}

/** Reads all tensors, file by file in the order of their offsets, as a disk likes it. */
function loadModel(library: Library, model: WorkerModel, settings: EngineSettings): NativeModel {
  const { maxModelLen, layerKvDtypes } = settings;
  const layers = model.config.layers.map((layer, i) => ({ ...layer, kvDtype: layerKvDtypes[i] ?? undefined }));
  const nativeModel = new NativeModel(library, { ...model.config, maxModelLen, layers }, {
    numThreads: settings.numThreads,
  });
  try {
    const files = model.paths.map((path) => nativeModel.addFile(path));
    const tensors = model.tensors.toSorted((a, b) => a.file - b.file || a.offsetBytes - b.offsetBytes);
    const totalBytes = tensors.reduce((sum, tensor) => sum + tensor.sizeBytes, 0);
    let doneBytes = 0;
    for (const tensor of tensors) {
      nativeModel.loadTensor({ ...tensor, file: files[tensor.file]! });
      doneBytes += tensor.sizeBytes;
      post({ type: "progress", doneBytes, totalBytes });
    }
    nativeModel.finish();
    return nativeModel;
  } catch (error) {
    nativeModel.close();
    throw error;
  }
}

function openEngine(nativeModel: NativeModel, settings: EngineSettings, numPages: number) {
  return new NativeEngine(
    nativeModel,
    {
      kvDtype: settings.kvCacheDtype,
      pageSize: settings.pageSize,
      numPages,
      maxNumSeqs: settings.maxNumSeqs,
      maxNumBatchedTokens: settings.maxNumBatchedTokens,
      maxPagesPerSeq: Math.ceil(settings.maxModelLen / settings.pageSize),
      maxLogprobs: settings.maxLogprobs,
      maxLogitEdits: settings.maxLogitEdits,
      numThreads: settings.numThreads,
      calculateKvScales: settings.calculateKvScales,
    },
  );
}

function readyMessage(parts: {
  library: Library;
  nativeModel: NativeModel;
  model: WorkerModel;
  settings: EngineSettings;
  pageBytes: number;
  numPages: number;
}): WorkerMessage {
  const { library, nativeModel, model, settings, pageBytes, numPages } = parts;
  const { pageSize, maxModelLen, maxNumSeqs, maxNumBatchedTokens, maxLogprobs, maxLogitEdits } = settings;
  const { backend, name, isa, numCores } = library.deviceInfo();
  return {
    type: "ready",
    info: {
      kvCacheDtype: settings.kvCacheDtype,
      kvCacheDtypeReason: settings.kvCacheDtypeReason,
      pageSize,
      numPages,
      numKvTokens: numPages * pageSize,
      kvBytesPerToken: pageBytes / pageSize,
      weightBytes: nativeModel.weightBytes,
      maxModelLen,
      maxNumSeqs,
      maxNumBatchedTokens,
      maxLogprobs,
      numThreads: settings.numThreads || numCores,
      device: { backend, name, isa },
    },
    limits: {
      maxModelLen,
      vocabSize: model.config.vocabSize,
      numEosTokenIds: model.eosTokenIds.length,
      pageSize,
      numPages,
      maxNumSeqs,
      maxLogprobs,
      maxLogitEdits,
    },
  };
}
