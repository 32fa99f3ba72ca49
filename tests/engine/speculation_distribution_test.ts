/** What is sampled with guesses has the model's distribution: the engine as it is, with a tiny checkpoint. */

import { assert, assertLess } from "@std/assert";
import { collect } from "../../engine/collect.ts";
import { samplingParams } from "../../engine/sampling_params.ts";
import { startEngine } from "../../engine/start_engine.ts";
import type { Engine, SamplingParams } from "../../engine/types.ts";
import { openModel } from "../../models/open_model.ts";

/** The tokens that a bias leaves: in this order in the prompt, so that each of them has been followed by another. */
const TOKENS = [40, 50, 60];
const PROMPT = Array.from({ length: 24 }, (_, i) => TOKENS[i % TOKENS.length]!);
const LENGTH = 4;
/** At 1 most outputs would be too rare. */
const TEMPERATURE = 5;
const NUM_SAMPLES = 1500;
/** Of chi-square with 80 degrees of freedom: what one sample in a thousand exceeds. */
const LIMIT = 124.8;

/** All outputs. */
const OUTPUTS = Array.from({ length: TOKENS.length ** LENGTH }, (_, i) => {
  return Array.from({ length: LENGTH }, (_, k) => TOKENS[Math.floor(i / TOKENS.length ** k) % TOKENS.length]!);
});

let numRequests = 0;

function run(engine: Engine, promptTokenIds: number[], sampling: SamplingParams) {
  return collect(engine, { id: `request-${numRequests++}`, promptTokenIds, sampling });
}

/** Chances of all outputs by the softmax of the prompt's log-probabilities, which no sampling goes through. */
async function chances(engine: Engine): Promise<number[]> {
  const sampling = samplingParams({ maxTokens: 1, promptLogprobs: 0 });
  /** exp(log-probability / temperature) of an output's last token, by the output. */
  const weights = new Map<string, number>();
  for (const output of OUTPUTS) {
    const { outputs, promptLogprobs } = run(engine, [...PROMPT, ...output], sampling);
    await outputs;
    output.forEach((_, k) => {
      weights.set(`${output.slice(0, k + 1)}`, Math.exp(promptLogprobs()![PROMPT.length + k]!.logprob / TEMPERATURE));
    });
  }
  return OUTPUTS.map((output) =>
    output.reduce((product, token, k) => {
      const before = output.slice(0, k);
      const sum = TOKENS.reduce((all, other) => all + weights.get(`${[...before, other]}`)!, 0);
      return product * weights.get(`${[...before, token]}`)! / sum;
    }, 1)
  );
}

Deno.test("Engine samples with guesses as the softmax says", async () => {
  await using engine = await startEngine({
    model: await openModel(decodeURIComponent(new URL("../data/tiny/base", import.meta.url).pathname)),
    kvCacheDtype: "float32",
    kvCacheMemory: { bytes: 4 * 2 ** 20 },
    // One at a time: a step of many sequences has no room for guesses.
    maxNumSeqs: 1,
    maxNumBatchedTokens: 64,
    pageSize: 16,
    numThreads: 1,
    maxQueuedRequests: NUM_SAMPLES,
    numSpeculativeTokens: 4,
    promptLookupMin: 1,
  });
  const expected = (await chances(engine)).map((chance) => chance * NUM_SAMPLES);
  const logitBias = Object.fromEntries(TOKENS.map((token) => [token, 100]));
  const seen = new Map<string, number>();
  await Promise.all(Array.from({ length: NUM_SAMPLES }, async (_, seed) => {
    // One more than is looked at: guesses reach only to the token before the last.
    const sampling = samplingParams({
      maxTokens: LENGTH + 1,
      temperature: TEMPERATURE,
      seed,
      logitBias,
      ignoreEos: true,
    });
    const [{ tokenIds }] = await run(engine, PROMPT, sampling).outputs;
    const name = `${tokenIds.slice(0, LENGTH)}`;
    seen.set(name, (seen.get(name) ?? 0) + 1);
  }));
  const { guessedTokensTotal, keptTokensTotal } = engine.stats();
  assert(
    keptTokensTotal > 500 && guessedTokensTotal - keptTokensTotal > 500,
    `${keptTokensTotal} of ${guessedTokensTotal}`,
  );
  assert(Math.min(...expected) > 3, `some output is too rare for the test: ${Math.min(...expected)}`);
  const chiSquare = OUTPUTS.reduce(
    (sum, output, i) => sum + ((seen.get(`${output}`) ?? 0) - expected[i]!) ** 2 / expected[i]!,
    0,
  );
  assertLess(chiSquare, LIMIT);
});
