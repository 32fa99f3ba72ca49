import { assert, assertEquals } from "@std/assert";
import type { SamplingOptions } from "../../engine/sampling_params.ts";
import { expectedOutput, greedy } from "./_fake_model.ts";
import { Harness } from "./_harness.ts";

const CONFIG = { pageSize: 16, numPages: 40, maxNumSeqs: 4, maxNumBatchedTokens: 64, maxSamples: 20 };
const SPECULATION = {
  numSpeculativeTokens: 4,
  promptLookupMin: 2,
  tokenCost: 0.001,
  waitCost: 0,
  fewTokens: Infinity,
  manyCost: 0,
};
const PROMPT = [2, 3, 4, 2, 3];

function run(options: SamplingOptions, { looksAhead = false, speculation = SPECULATION } = {}) {
  const harness = new Harness(CONFIG, { looksAhead, speculation });
  const sampling = greedy({ maxTokens: 60, ignoreEos: true, ...options });
  const key = harness.submit(PROMPT, sampling);
  harness.finish();
  assertEquals(harness.tokens(key), Array.from({ length: sampling.n }, (_, i) => expectedOutput(PROMPT, sampling, i)));
  const [guessed, kept] = [harness.counters.get("guessedTokensTotal"), harness.counters.get("keptTokensTotal")];
  return { steps: harness.runner.numSteps, guessed, kept };
}

for (const looksAhead of [false, true]) {
  const name = looksAhead ? " with look-ahead" : "";
  Deno.test(`StepLoop takes several tokens a step where guesses are right${name}`, () => {
    const { steps, guessed, kept } = run({ allowedTokenIds: [7] }, { looksAhead });
    assert(steps < 25, `${steps} steps`);
    assertEquals(guessed, kept);
  });

  Deno.test(`StepLoop gives the same tokens where guesses are wrong, at any temperature${name}`, () => {
    let [numGuessed, numKept] = [0, 0];
    for (const temperature of [0, 1]) {
      for (let seed = 0; seed < 30; seed++) {
        const { guessed, kept } = run({ allowedTokenIds: [5, 6, 7], temperature, seed }, { looksAhead });
        numGuessed += guessed;
        numKept += kept;
      }
    }
    assert(numGuessed - numKept > 500 && numKept > 500, `${numKept} of ${numGuessed}`);
  });
}

for (const looksAhead of [false, true]) {
  const name = looksAhead ? " with look-ahead" : "";
  const free = { maxTokens: 60, temperature: 1, seed: 5 };
  const expected = expectedOutput(PROMPT, greedy({ ...free, ignoreEos: true }));

  Deno.test(`StepLoop guesses the prediction as long as the output follows it${name}`, () => {
    assertEquals(run(free, { looksAhead }).kept, 0);
    const { steps, guessed, kept } = run({ ...free, prediction: expected }, { looksAhead });
    // Four a step but where a page or the output ends.
    assertEquals([guessed, kept, steps], [44, 44, 16]);
    // One that goes on where the output ends, and one that is too long to be looked up in at once.
    const longer = [...expected, ...Array.from({ length: 20_000 }, (_, i) => i % 40)];
    assertEquals(run({ ...free, prediction: longer }, { looksAhead }).kept, 44);
  });

  Deno.test(`StepLoop comes back to the prediction after what differs from it${name}`, () => {
    const edited = [...expected.slice(0, 10), 1, 2, 1, ...expected.slice(12, 40), ...expected.slice(45)];
    const { guessed, kept } = run({ ...free, prediction: edited }, { looksAhead });
    assert(kept >= 36 && guessed - kept <= 16, `${kept} of ${guessed}`);
  });

  Deno.test(`StepLoop gives the same tokens with any prediction${name}`, () => {
    for (let seed = 0; seed < 20; seed++) {
      const prediction = expectedOutput([seed], greedy({ ...free, ignoreEos: true }));
      run({ ...free, allowedTokenIds: [5, 6, 7], seed, prediction }, { looksAhead });
      run({ ...free, seed, prediction, n: 3 }, { looksAhead });
    }
  });
}

Deno.test("StepLoop guesses nothing where a request says so, or its next token changes how the one after is sampled", () => {
  for (const options of [{ speculate: false }, { presencePenalty: 1 }, { minTokens: 60, stopTokenIds: [9] }]) {
    assertEquals(run({ allowedTokenIds: [7], ...options }), { steps: 60, guessed: 0, kept: 0 });
  }
});

Deno.test("StepLoop tells in a request's usage what became of its guesses, where it guesses", () => {
  for (const speculation of [SPECULATION, null]) {
    const harness = new Harness(CONFIG, { speculation });
    const sampling = greedy({ n: 2, maxTokens: 60, temperature: 1, allowedTokenIds: [5, 6, 7] });
    const usages = [sampling, { ...sampling, speculate: false }].map((own) => {
      const key = harness.submit(PROMPT, own);
      harness.finish();
      return harness.transcripts.get(key)!.usage!.guesses;
    });
    const [guessed, kept] = [harness.counters.get("guessedTokensTotal"), harness.counters.get("keptTokensTotal")];
    const expected = [{ kept, rejected: guessed - kept }, { kept: 0, rejected: 0 }];
    assert(speculation === null || kept > 0 && guessed > kept, `${kept} of ${guessed}`);
    assertEquals(usages, speculation === null ? [undefined, undefined] : expected);
  }
});

Deno.test("StepLoop keeps a step with guesses among those of few tokens where more would cost more than they bring", () => {
  const mostTokens = (manyCost: number, fewTokens: number) => {
    const speculation = { ...SPECULATION, fewTokens, manyCost };
    const harness = new Harness(CONFIG, { speculation });
    const keys = [3, 5, 8].map((token) => harness.submit(PROMPT, greedy({ maxTokens: 60, allowedTokenIds: [token] })));
    let [steps, most] = [0, 0];
    while (!harness.loop.isIdle) {
      harness.step();
      // The prompts' first step is not one of decodes.
      if (steps++ > 0) most = Math.max(most, harness.runner.queryLens.reduce((sum, length) => sum + length, 0));
    }
    harness.finish();
    keys.forEach((key, i) => assertEquals(harness.tokens(key), [Array(60).fill([3, 5, 8][i])]));
    return most;
  };
  assertEquals(mostTokens(0, Infinity), 15);
  assertEquals(mostTokens(0.1, 8), 15);
  assertEquals(mostTokens(5, 8), 8);
  // Three decodes are more than two tokens with or without guesses.
  assertEquals(mostTokens(5, 2), 15);
  assertEquals(mostTokens(5, 3), 3);
});

Deno.test("StepLoop guesses nothing where it does not pay", () => {
  const options = { allowedTokenIds: [7] };
  assertEquals(run(options, { speculation: { ...SPECULATION, tokenCost: 1000 } }).guessed, 0);
  assertEquals(run(options, { looksAhead: true, speculation: { ...SPECULATION, waitCost: 5 } }).guessed, 0);
});

Deno.test("StepLoop stops at a stop token among its guesses", () => {
  const harness = new Harness(CONFIG, { speculation: SPECULATION });
  const sampling = greedy({ maxTokens: 60, allowedTokenIds: [7, 8], stopTokenIds: [8] });
  const key = harness.submit([7, 7, 8, 7, 7, 8, 7, 7], sampling);
  harness.finish();
  assertEquals(harness.tokens(key), [expectedOutput([7, 7, 8, 7, 7, 8, 7, 7], sampling)]);
});
