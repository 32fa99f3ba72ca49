/**
 * The engine's Worker: opens the native library, loads the model, then runs the step loop until it is closed. All
 * native calls come from this one thread.
 *
 * @module
 */

import { Library, openLibrary } from "../ffi/library.ts";
import { NativeEngine } from "../ffi/native_engine.ts";
import type { NativeModel } from "../ffi/native_model.ts";
import { Counters } from "./counters.ts";
import { planKvPages } from "./kv_cache_plan.ts";
import { loadModel } from "./load_model.ts";
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
  using nativeModel = loadModel(
    library,
    model,
    settings,
    (doneBytes, totalBytes) => post({ type: "progress", doneBytes, totalBytes }),
  );
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
