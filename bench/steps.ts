/**
 * `deno task bench:steps`: what single steps cost on the native engine, without scheduler and HTTP: sequences that
 * decode, and prompt tokens beside them, all with the same context. Prints JSON: milliseconds a step while the next one is
 * always submitted before the last is read, and how many of them the host needs to submit it.
 *
 *     deno task bench:steps [MODEL | --shape llama-3.1-8b [--layers N]] [--steps 64,64+320,256+1024,0+2048]
 *         [--context 1000] [--repeats 20] [--out FILE] [options of serve]
 *
 * Prompt tokens are whole prompts of the context's length, and the end of one more.
 *
 * @module
 */

import { loadModel } from "../engine/load_model.ts";
import { stepSizes } from "../engine/step_sizes.ts";
import { openDevice } from "../ffi/library.ts";
import { NativeEngine } from "../ffi/native_engine.ts";
import type { StepBuffer } from "../ffi/step_buffer.ts";
import { openModel } from "../models/open_model.ts";
import { driverVersion, emit, parseBenchCommand } from "./_bench_command.ts";
import { benchModel } from "./_bench_model.ts";
import { makeRandom, percentile, round } from "./_cells.ts";

const FLAGS = ["shape", "layers", "steps", "context", "repeats", "out"] as const;
const PAGE_SIZE = 16;

/** How many sequences decode, and how many prompt tokens come with them. */
interface StepShape {
  readonly decodes: number;
  readonly promptTokens: number;
}

/** "64+320,256,0+2048" @throws {RangeError} A step is not written so. */
function parseSteps(text: string): StepShape[] {
  return text.split(",").map((one) => {
    const match = one.trim().match(/^(\d+)(?:\+(\d+))?$/);
    if (match === null) throw new RangeError(`Expected steps such as 64+320, received "${one}"`);
    return { decodes: Number(match[1]), promptTokens: Number(match[2] ?? 0) };
  });
}

/** New tokens of each sequence of a step. */
function queryLens({ decodes, promptTokens }: StepShape, context: number): number[] {
  const lens = Array.from({ length: decodes }, () => 1);
  for (let left = promptTokens; left > 0; left -= context) lens.push(Math.min(left, context));
  return lens;
}

/** Sequence s of the step is number `first + s`, which has pages of its own and ends with the context. */
function fillBuffer(buffer: StepBuffer, lens: readonly number[], first: number, nextToken: () => number): void {
  const numPages = Math.ceil(context / PAGE_SIZE);
  let numTokens = 0;
  lens.forEach((length, s) => {
    for (let i = 0; i < length; i++) buffer.tokens[numTokens++] = nextToken();
    buffer.queryLen[s] = length;
    buffer.seqLen[s] = context;
    for (let i = 0; i < numPages; i++) {
      buffer.pageTable[s * buffer.maxPagesPerSeq + i] = (first + s) * numPages + i;
    }
    buffer.sample[s] = 1;
    buffer.topP[s] = 1;
    buffer.repetitionPenalty[s] = 1;
    buffer.numLogprobs[s] = -1;
  });
  buffer.header[0] = lens.length;
  buffer.header[1] = numTokens;
}

function timeSteps(engine: NativeEngine, repeats: number): { ms: number; submitMs: number } {
  const submitTimes: number[] = [];
  const submit = (i: number) => {
    const start = performance.now();
    engine.submit(engine.buffers[i % 2]!);
    submitTimes.push(performance.now() - start);
  };
  const numWarm = 3;
  let startMs = 0;
  submit(0);
  for (let i = 1; i <= numWarm + repeats; i++) {
    submit(i);
    engine.finish(engine.buffers[(i - 1) % 2]!);
    if (i === numWarm) startMs = performance.now();
  }
  const ms = (performance.now() - startMs) / repeats;
  engine.finish(engine.buffers[(numWarm + repeats) % 2]!);
  return { ms: round(ms), submitMs: round(percentile(submitTimes, 0.5)) };
}

const { flags, options, source } = parseBenchCommand(Deno.args, FLAGS);
const steps = parseSteps(flags.steps ?? "64,64+64,64+192,64+320,64+448,64+960,256,256+256,256+1024,0+2048");
const context = Number(flags.context ?? 1000);
await using files = await benchModel({ source, shape: flags.shape, layers: flags.layers });
const model = await openModel(files.source, { loadFormat: files.loadFormat });
const { library } = await openDevice(options.device);
using _library = library;
const device = library.deviceInfo();
const maxTokens = Math.max(...steps.map(({ decodes, promptTokens }) => decodes + promptTokens), context);
const maxSeqs = Math.max(...steps.map((step) => queryLens(step, context).length));
const settings = {
  maxModelLen: model.config.maxModelLen,
  layerKvDtypes: model.config.layers.map(() => null),
  numThreads: options.threads,
  quantization: options.quantization,
};
using nativeModel = loadModel(library, model, settings, () => {});
const sizes = stepSizes(
  {
    maxNumSeqs: maxSeqs,
    maxNumBatchedTokens: maxTokens,
    numSpeculativeTokens: 0,
  },
  device.backend,
  model.config.vocabSize,
);
const kvDtype = options.kvCacheDtype === "fp8"
  ? "fp8_e4m3"
  : options.kvCacheDtype === "auto"
  ? model.config.dtype
  : options.kvCacheDtype;
using engine = new NativeEngine(nativeModel, {
  kvDtype,
  pageSize: PAGE_SIZE,
  numPages: maxSeqs * Math.ceil(context / PAGE_SIZE),
  maxNumSeqs: sizes.maxNumSeqs,
  maxNumBatchedTokens: sizes.maxNumBatchedTokens,
  maxPagesPerSeq: Math.ceil(context / PAGE_SIZE),
  maxLogprobs: 0,
  maxLogitEdits: sizes.maxLogitEdits,
  numThreads: options.threads,
});
const random = makeRandom(1);
const nextToken = () => Math.floor(random() * model.config.vocabSize);
for (let s = 0; s < maxSeqs; s++) { // what the steps read
  fillBuffer(engine.buffer, [context], s, nextToken);
  engine.step();
}
const figures = steps.map((step) => {
  for (const buffer of engine.buffers) fillBuffer(buffer, queryLens(step, context), 0, nextToken);
  const figure = { ...step, ...timeSteps(engine, Number(flags.repeats ?? 20)) };
  console.error(`${step.decodes} + ${step.promptTokens}: ${figure.ms} ms, submitted in ${figure.submitMs} ms`);
  return figure;
});
await emit({
  model: flags.shape ?? model.name,
  device,
  driver: await driverVersion(),
  kvCacheDtype: kvDtype,
  quantization: options.quantization,
  context,
  steps: figures,
}, flags.out);
