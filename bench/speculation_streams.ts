/**
 * `deno task bench:speculation-streams`: what guesses gain, or cost, many streams of a made-up model. Each stream may only
 * write the tokens of a set of its own, drawn at random: of 1 all guesses are right, of 2 half, of 16 few; without a set
 * there is nothing to guess. Streams run with and without guesses in turn on the same engine; printed as JSON are the
 * medians of output tokens a second while they decode, their ratio and how many guesses were right.
 *
 *     deno task bench:speculation-streams [--shape llama-3.1-8b [--layers N]] [--streams 1,8,64] [--sets 1,2,16,0]
 *         [--prompt 1000] [--new 64] [--repeats 3] [--out FILE] [options of serve]
 *
 * `--num-speculative-tokens` is 4 unless it is given.
 *
 * @module
 */

import { samplingParams } from "../engine/sampling_params.ts";
import { startEngine } from "../engine/start_engine.ts";
import type { Engine, SamplingParams } from "../engine/types.ts";
import { openModel } from "../models/open_model.ts";
import { parseBenchCommand } from "./_bench_command.ts";
import { benchModel } from "./_bench_model.ts";
import { makeRandom, percentile, randomPrompt, round } from "./_cells.ts";
import { emitGuesses, timedRun } from "./_timed_run.ts";

interface Stream {
  readonly prompt: readonly number[];
  readonly sampling: SamplingParams;
}

/** Runs streams at once. */
async function runTogether(engine: Engine, streams: readonly Stream[], speculate: boolean) {
  const runs = await Promise.all(
    streams.map(({ prompt, sampling }) => timedRun(engine, prompt, { ...sampling, speculate })),
  );
  const startMs = Math.max(...runs.map((run) => run.startMs));
  const endMs = Math.max(...runs.map((run) => run.endMs));
  const tokens = runs.reduce((sum, run) => sum + run.tokens.length - 1, 0);
  return { runs, tokensPerSecond: 1000 * tokens / (endMs - startMs) };
}

async function measure(engine: Engine, streams: readonly Stream[], repeats: number) {
  const plain = await runTogether(engine, streams, false);
  const rates = { with: [] as number[], without: [] as number[] };
  const guesses = { kept: 0, rejected: 0 };
  let numEqual = 0;
  for (let i = 0; i < repeats; i++) {
    for (const speculate of i % 2 === 0 ? [true, false] : [false, true]) {
      const { runs, tokensPerSecond } = await runTogether(engine, streams, speculate);
      rates[speculate ? "with" : "without"].push(tokensPerSecond);
      if (!speculate) continue;
      runs.forEach(({ tokens, usage }, s) => {
        guesses.kept += usage.guesses?.kept ?? 0;
        guesses.rejected += usage.guesses?.rejected ?? 0;
        numEqual += tokens.every((token, place) => token === plain.runs[s]!.tokens[place]) ? 1 : 0;
      });
    }
  }
  const [withGuesses, without] = [percentile(rates.with, 0.5), percentile(rates.without, 0.5)];
  const guessed = guesses.kept + guesses.rejected;
  return {
    tokensPerSecond: round(withGuesses, 1),
    tokensPerSecondWithout: round(without, 1),
    ratio: round(withGuesses / without),
    guessed,
    keptShare: guessed === 0 ? null : round(guesses.kept / guessed),
    equalOutputs: round(numEqual / (repeats * streams.length)),
  };
}

const NAMES = ["shape", "layers", "streams", "sets", "prompt", "new", "repeats", "out"] as const;
const { flags, options, source } = parseBenchCommand(Deno.args, NAMES);
const integers = (text: string) => text.split(",").map(Number);
const repeats = Number(flags.repeats ?? 3);
const numSpeculativeTokens = options.numSpeculativeTokens || 4;
await using files = await benchModel({ source, shape: flags.shape, layers: flags.layers });
const model = await openModel(files.source, { loadFormat: files.loadFormat });
await using engine = await startEngine({ model, ...options, numSpeculativeTokens, numThreads: options.threads });
const random = makeRandom(1);
const results = [];
for (const count of integers(flags.streams ?? "1,8,64")) {
  for (const setSize of integers(flags.sets ?? "1,2,16,0")) {
    const streams = Array.from({ length: count }, (_, seed) => {
      const allowed = randomPrompt(setSize, model.config.vocabSize, random);
      const allowedTokenIds = setSize === 0 ? null : allowed;
      const common = { maxTokens: Number(flags.new ?? 64), ignoreEos: true, temperature: 1, seed, allowedTokenIds };
      const prompt = randomPrompt(Number(flags.prompt ?? 1000), model.config.vocabSize, random);
      return { prompt, sampling: samplingParams(common, {}) };
    });
    results.push({ streams: count, setSize, ...await measure(engine, streams, repeats) });
    console.error(JSON.stringify(results.at(-1)));
  }
}
const { promptLookupMin } = options;
await emitGuesses(engine, model.name, { numSpeculativeTokens, promptLookupMin, repeats, results }, flags.out);
