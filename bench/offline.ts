/**
 * `deno task bench:offline`: the engine without HTTP. Each cell submits its requests at once, greedy and to the full
 * length; printed as JSON are the milliseconds between tokens while all of them decode, and the prompt tokens a second of
 * prefill cells.
 *
 *     deno task bench:offline [MODEL | --shape llama-3.1-8b [--layers N]] [--cells 1x1000+256,8x1000+256]
 *         [--prefills 1x8192,8x2048] [--repeats 1] [--read-bandwidth TB/s] [--out FILE] [options of serve]
 *
 * `--shape` makes the weights up. `--read-bandwidth` is the card's, for `compare.ts`; without it the bench gpu_matmul
 * measures it, where that was built.
 *
 * @module
 */

import { startEngine } from "../engine/start_engine.ts";
import type { Engine } from "../engine/types.ts";
import { openModel } from "../models/open_model.ts";
import type { ModelConfig } from "../models/types.ts";
import { VERSION } from "../version.ts";
import { driverVersion, emit, measureReadBandwidth, parseBenchCommand } from "./_bench_command.ts";
import { benchModel } from "./_bench_model.ts";
import {
  benchSampling,
  type Cell,
  cellName,
  makeRandom,
  mean,
  parseCells,
  percentile,
  randomPrompt,
  round,
} from "./_cells.ts";

const FLAGS = ["shape", "layers", "cells", "prefills", "repeats", "read-bandwidth", "out"] as const;

/** When each request's tokens came, in milliseconds. */
interface CellTimes {
  readonly startMs: number;
  /** Of each request, one entry a token. */
  readonly tokenMs: readonly number[][];
}

let numRequests = 0;

/** Submits a cell's requests at once and waits for all of their tokens. */
async function runCell(engine: Engine, prompts: readonly number[][], maxTokens: number): Promise<CellTimes> {
  const tokenMs: number[][] = prompts.map(() => []);
  const startMs = performance.now();
  await Promise.all(prompts.map((promptTokenIds, i) =>
    new Promise<void>((resolve, reject) => {
      const request = { id: `bench-${numRequests++}`, promptTokenIds, sampling: benchSampling(maxTokens) };
      engine.submit(request, {
        deltas: (deltas) => {
          const now = performance.now();
          for (const { tokenIds } of deltas) for (const _ of tokenIds) tokenMs[i]!.push(now);
        },
        end: () => resolve(),
        error: reject,
      });
    })
  ));
  return { startMs, tokenMs };
}

/** Figures of the time in which every request of a cell decodes. */
function decodeFigures(cell: Cell, { startMs, tokenMs }: CellTimes) {
  const fullFrom = Math.max(...tokenMs.map((times) => times[0]!));
  // The step of the first last token is left out: some sequences may have left before it.
  const fullTo = Math.min(...tokenMs.map((times) => times.at(-1)!));
  const endMs = Math.max(...tokenMs.map((times) => times.at(-1)!));
  const gaps = tokenMs.flatMap((times) => {
    const inside = times.filter((time) => time >= fullFrom && time < fullTo);
    return inside.slice(1).map((time, i) => time - inside[i]!);
  });
  if (gaps.length === 0) {
    throw new RangeError(
      `decode ${
        cellName(cell)
      }: its streams never all decoded at once; ask for more new tokens, or for more prompt tokens ` +
        "a step with --max-num-batched-tokens",
    );
  }
  const tokens = cell.streams * cell.new;
  return {
    ...cell,
    msBetweenTokens: round(percentile(gaps, 0.5)),
    msBetweenTokensMean: round(mean(gaps)),
    msBetweenTokensP99: round(percentile(gaps, 0.99)),
    decodeTokensPerSecond: round(cell.streams * 1000 / mean(gaps), 1),
    secondsUntilAllDecode: round((fullFrom - startMs) / 1000, 4),
    seconds: round((endMs - startMs) / 1000, 4),
    outputTokensPerSecond: round(tokens * 1000 / (endMs - startMs), 1),
  };
}

function prefillFigures(cell: Cell, times: readonly CellTimes[]) {
  const seconds = times.map(({ startMs, tokenMs }) => (Math.max(...tokenMs.map((own) => own[0]!)) - startMs) / 1000);
  const median = percentile(seconds, 0.5);
  return {
    streams: cell.streams,
    prompt: cell.prompt,
    seconds: round(median, 4),
    promptTokensPerSecond: round(cell.streams * cell.prompt / median, 1),
  };
}

/** Weights that a step reads: all but the embedding's rows that no token of it names. */
function readWeightBytes(weightBytes: number, config: ModelConfig, isTied: boolean): number {
  return weightBytes - (isTied ? 0 : config.vocabSize * config.hiddenSize * 2);
}

const { flags, options, source } = parseBenchCommand(Deno.args, FLAGS);
const cells = parseCells(flags.cells ?? "1x1000+256,8x1000+256,64x1000+256,256x1000+256");
const prefills = parseCells(flags.prefills ?? "1x8192,8x2048");
const repeats = Number(flags.repeats ?? 1);
await using files = await benchModel({ source, shape: flags.shape, layers: flags.layers });
const readTerabytesPerSecond = flags["read-bandwidth"] === undefined
  ? await measureReadBandwidth()
  : Number(flags["read-bandwidth"]);
const loadStart = performance.now();
const { loadFormat } = files;
const model = await openModel(files.source, { loadFormat });
const engine = await startEngine({
  model,
  ...options,
  // What made-up prompts repeat says nothing about guesses, and the peers guess nothing.
  numSpeculativeTokens: options.numSpeculativeTokens ?? 0,
  numThreads: options.threads,
  maxQueuedRequests: Infinity,
});
const startUpSeconds = (performance.now() - loadStart) / 1000;
const { info } = engine;
console.error(`ready in ${startUpSeconds.toFixed(1)} s: ${info.device.name}, ${info.numKvTokens} tokens of KV`);
try {
  const random = makeRandom(1);
  const prompts = (cell: Cell) =>
    Array.from({ length: cell.streams }, () => randomPrompt(cell.prompt, model.config.vocabSize, random));
  const decode = [];
  const prefill = [];
  const [warm] = [...cells, ...prefills];
  if (warm !== undefined) await runCell(engine, prompts({ ...warm, prompt: Math.min(warm.prompt, 256) }), 4);
  for (const cell of prefills) {
    const times = [];
    for (let i = 0; i < Math.max(repeats, 3); i++) times.push(await runCell(engine, prompts(cell), 1));
    prefill.push(prefillFigures(cell, times));
    console.error(`prefill ${cell.streams} x ${cell.prompt}: ${prefill.at(-1)!.promptTokensPerSecond} tokens/s`);
  }
  for (const cell of cells) {
    for (let i = 0; i < repeats; i++) {
      decode.push(decodeFigures(cell, await runCell(engine, prompts(cell), cell.new)));
      console.error(`decode ${cellName(cell)}: ${decode.at(-1)!.msBetweenTokens} ms between tokens`);
    }
  }
  const isTied = !model.tensors.some(({ role }) => role === "lm_head");
  await emit({
    engine: `octavo ${VERSION}`,
    model: flags.shape ?? model.name,
    device: info.device,
    driver: await driverVersion(),
    readTerabytesPerSecond,
    kvCacheDtype: info.kvCacheDtype,
    quantization: options.quantization,
    maxNumBatchedTokens: info.maxNumBatchedTokens,
    numKvTokens: info.numKvTokens,
    kvBytesPerToken: info.kvBytesPerToken,
    weightBytes: info.weightBytes,
    readWeightBytes: readWeightBytes(info.weightBytes, model.config, isTied),
    startUpSeconds: round(startUpSeconds, 1),
    decode,
    prefill,
  }, flags.out);
} finally {
  await engine.close();
}
