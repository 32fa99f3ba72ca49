import { assert, assertAlmostEquals, assertEquals, assertNotEquals, assertThrows } from "@std/assert";
import { SAMPLING } from "../../ffi/structs.ts";
import { openEachIsa, openLibrary } from "./_library.ts";
import {
  type LogitEdit,
  makeRandom,
  randomLogits,
  referenceDistribution,
  referenceLogits,
  sample,
  type Settings,
} from "./_sampler.ts";

const library = openLibrary(["octavo_sample"]);

function countTokens(tokens: Int32Array): Map<number, number> {
  const counts = new Map<number, number>();
  for (const token of tokens) counts.set(token, (counts.get(token) ?? 0) + 1);
  return counts;
}

/** Settings that take each filter at random values, alone and together. */
function randomSettings(random: () => number, vocabSize: number): Settings {
  const pick = <T>(values: readonly T[]): T => values[Math.floor(random() * values.length)]!;
  const edits: LogitEdit[] = [];
  for (let token = 0; token < vocabSize && edits.length < 40; token += 1 + Math.floor(random() * 9)) {
    edits.push({
      token,
      count: Math.floor(random() * 4),
      seen: random() < 0.5,
      banned: random() < 0.2,
      bias: random() < 0.3 ? (random() - 0.5) * 6 : 0,
    });
  }
  if (edits.length >= vocabSize) edits.length = vocabSize - 1;
  return {
    temperature: pick([0.3, 0.8, 1, 1.7]),
    topK: pick([0, 0, 1, 2, 5, 40, vocabSize - 1, vocabSize, vocabSize + 7]),
    topP: pick([1, 1, 0.999, 0.95, 0.6, 0.1, 1e-4]),
    minP: pick([0, 0, 0.01, 0.2, 1]),
    repetitionPenalty: pick([1, 1.3, 0.7]),
    presencePenalty: pick([0, 0.7]),
    frequencyPenalty: pick([0, 0.4, -0.3]),
    edits: random() < 0.6 ? edits : [],
  };
}

Deno.test("octavo_sample() draws from the sorted reference's set under any filters", () => {
  const random = makeRandom(1);
  for (const each of openEachIsa(["octavo_sample"])) {
    for (let round = 0; round < 150; round++) {
      const vocabSize = [1, 2, 17, 255, 256, 257, 1000, 3001][round % 8]!;
      const logits = randomLogits(vocabSize, [0.1, 1, 3][round % 3]!, random);
      const settings = randomSettings(random, vocabSize);
      const expected = referenceDistribution(logits, settings);
      const numDraws = 3000;
      const counts = countTokens(sample(each, logits, settings, numDraws).tokens);
      const message = `${each.isa}, round ${round}, ${JSON.stringify(settings)}`;
      for (const token of counts.keys()) assert(expected.has(token), `${message}: drew ${token}`);
      for (const [token, probability] of expected) {
        // The chance of missing it would be below exp(-30).
        if (probability * numDraws > 30) assert(counts.has(token), `${message}: never drew ${token}`);
      }
    }
    each.close();
  }
});

Deno.test("octavo_sample() keeps exactly top-p's set when the boundary is sharp", () => {
  // Probabilities 0.5, 0.25, 0.125 ...: top_p 0.75 needs two of them, a little more needs three.
  const logits = Float32Array.from({ length: 700 }, (_, i) => -Math.LN2 * i);
  const support = (topP: number) => [...countTokens(sample(library, logits, { topP }, 4000).tokens).keys()].sort();
  assertEquals(support(0.74), [0, 1]);
  assertEquals(support(0.76), [0, 1, 2]);
  assertEquals(support(0.49), [0]);
});

Deno.test("octavo_sample() breaks ties at the boundary by the lower token", () => {
  const logits = new Float32Array(600);
  const support = (settings: Settings) =>
    [...countTokens(sample(library, logits, settings, 5000).tokens).keys()].sort((a, b) => a - b);
  assertEquals(support({ topK: 5 }), [0, 1, 2, 3, 4]);
  assertEquals(support({ topP: 0.01 }), [0, 1, 2, 3, 4, 5]);
  assertEquals(support({ topP: 0.5, topK: 8 }), [0, 1, 2, 3]);
});

/** Upper limit of chi-square with df degrees of freedom at p = 1e-6 (Wilson and Hilferty 1931). */
function chiSquareLimit(df: number): number {
  return df * (1 - 2 / (9 * df) + 4.753 * Math.sqrt(2 / (9 * df))) ** 3;
}

const CHI_SQUARE_CASES: Record<string, Settings> = {
  "no filter": {},
  "temperature 0.7": { temperature: 0.7 },
  "top_k 20": { topK: 20 },
  "top_p 0.8": { topP: 0.8, temperature: 1.5 },
  "min_p 0.05 and top_k 50": { minP: 0.05, topK: 50 },
};
for (const [name, settings] of Object.entries(CHI_SQUARE_CASES)) {
  Deno.test(`octavo_sample() passes a chi-square test on 1e6 draws with ${name}`, () => {
    const logits = randomLogits(300, 1.5, makeRandom(7));
    const numDraws = 1_000_000;
    const counts = countTokens(sample(library, logits, { ...settings, seed: 0x123456789abcn }, numDraws).tokens);
    let statistic = 0;
    let cells = 0;
    let rest = { expected: 0, count: 0 }; // rare tokens together
    for (const [token, probability] of referenceDistribution(logits, settings)) {
      const expected = probability * numDraws;
      const count = counts.get(token) ?? 0;
      if (expected < 10) {
        rest = { expected: rest.expected + expected, count: rest.count + count };
      } else {
        statistic += (count - expected) ** 2 / expected;
        cells++;
      }
    }
    if (rest.expected >= 10) {
      statistic += (rest.count - rest.expected) ** 2 / rest.expected;
      cells++;
    }
    assert(statistic < chiSquareLimit(cells - 1), `chi-square ${statistic} with ${cells} cells`);
  });
}

Deno.test("octavo_sample() takes the most likely token, the lowest at a tie, when temperature is 0", () => {
  const logits = randomLogits(1000, 1, makeRandom(3));
  logits[700] = 9;
  logits[701] = 9;
  assertEquals([...sample(library, logits, { temperature: 0 }, 3).tokens], [700, 700, 700]);
  logits[20] = 9;
  assertEquals(sample(library, logits, { temperature: 0, topK: 3, topP: 0.5 }).tokens[0], 20);
  const edits = [{ token: 20, banned: true }, { token: 5, bias: 100 }];
  assertEquals(sample(library, logits, { temperature: 0, edits }).tokens[0], 5);
});

Deno.test("octavo_sample() applies penalties, bias and bans in order", () => {
  const logits = Float32Array.from([2, -2, 1, 0.5, 3, -Infinity]);
  const edits = [
    { token: 0, seen: true, count: 2 },
    { token: 1, seen: true, count: 1, bias: 1 },
    { token: 2, bias: -0.25 },
    { token: 4, banned: true, bias: 50 },
  ];
  const settings = { repetitionPenalty: 1.25, presencePenalty: 0.5, frequencyPenalty: 0.125, edits };
  const expected = [2 / 1.25 - 0.25 - 0.5, -2 * 1.25 - 0.125 - 0.5 + 1, 0.75, 0.5, -Infinity, -Infinity];
  assertEquals(referenceLogits(logits, settings), expected);
  const logSum = Math.log(expected.reduce((sum, logit) => sum + Math.exp(logit), 0));
  const { tokens, logprobs } = sample(library, logits, { ...settings, temperature: 2 }, 500);
  assertEquals([...new Set(tokens)].sort(), [0, 1, 2, 3]);
  tokens.forEach((token, i) => assertAlmostEquals(logprobs[i]!, expected[token]! - logSum, 1e-6));
});

Deno.test("octavo_sample() gives log-probabilities before temperature and filters", () => {
  for (const vocabSize of [3, 5000, 262_144]) {
    const logits = randomLogits(vocabSize, 2, makeRandom(vocabSize));
    const max = logits.reduce((a, b) => Math.max(a, b));
    const logSum = max + Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit - max), 0));
    const { tokens, logprobs } = sample(library, logits, { temperature: 0.6, topK: 30, topP: 0.9 }, 20);
    tokens.forEach((token, i) => assertAlmostEquals(logprobs[i]!, logits[token]! - logSum, 2e-6));
  }
});

Deno.test("octavo_sample() repeats its draws for a seed and index, and no others", () => {
  const logits = randomLogits(2000, 1, makeRandom(4));
  const draw = (
    seed: bigint,
    sampleIndex: number,
    numDraws: number,
  ) => [...sample(library, logits, { seed, sampleIndex }, numDraws).tokens];
  const all = draw(42n, 0, 20);
  assertEquals(draw(42n, 0, 20), all);
  assertEquals(draw(42n, 7, 5), all.slice(7, 12));
  assertNotEquals(draw(43n, 0, 20), all);
  assertNotEquals(draw(42n + (1n << 32n), 0, 20), all);
});

Deno.test("octavo_sample() draws the same tokens on every code path", () => {
  const logits = randomLogits(5000, 1, makeRandom(5));
  const all = openEachIsa(["octavo_sample"]).map((each) => {
    const { tokens } = sample(each, logits, { topP: 0.9, seed: 9n }, 200);
    each.close();
    return [...tokens];
  });
  for (const tokens of all) assertEquals(tokens, all[0]);
});

Deno.test("octavo_sample() uses Philox4x32-10", () => {
  // Random123's known answer for counter 0 and key 0 starts with 6627e8d5 e169c58d; 65536 equal tokens show its top bits.
  const logits = new Float32Array(65536);
  assertEquals(sample(library, logits, { seed: 0n }).tokens[0], 0x6627);
});

Deno.test("octavo_sample() survives logits that are no numbers, infinite or far apart", () => {
  const draw = (values: number[], settings: Settings = {}) => [
    ...new Set(sample(library, Float32Array.from(values), settings, 200).tokens),
  ];
  assertEquals(draw([NaN, 1, NaN]), [1]);
  assertEquals(draw([NaN, 1, NaN], { topK: 2, topP: 0.5 }), [1]);
  assertEquals(draw([1, Infinity, 3, Infinity]), [1]);
  assertEquals(draw([-3e38, -1e38, -2e38]), [1]);
  assertEquals(draw([5, 4, 5.1], { temperature: 1e-38 }), [2]);
  assertEquals(draw([-6e4, -6e4], { temperature: 1e30 }).sort(), [0, 1]);
  assertThrows(() => draw([NaN, -Infinity]), Error, "no value above -infinity");
});

const REFUSED: Record<string, { settings: Settings; message: string }> = {
  "a negative temperature": { settings: { temperature: -1 }, message: "temperature" },
  "an infinite temperature": { settings: { temperature: Infinity }, message: "temperature" },
  "top_p 0": { settings: { topP: 0 }, message: "top_p" },
  "top_p above 1": { settings: { topP: 1.5 }, message: "found 1.5" },
  "min_p above 1": { settings: { minP: 1.1 }, message: "min_p" },
  "a negative top_k": { settings: { topK: -1 }, message: "top_k" },
  "repetition_penalty 0": { settings: { repetitionPenalty: 0 }, message: "repetition_penalty" },
  "an infinite presence_penalty": { settings: { presencePenalty: Infinity }, message: "presence_penalty" },
  "an infinite frequency_penalty": { settings: { frequencyPenalty: -Infinity }, message: "frequency_penalty" },
  "a negative sample_index": { settings: { sampleIndex: -1 }, message: "sample_index" },
  "draws past the last index": { settings: { sampleIndex: 2 ** 31 - 1 }, message: "num_draws" },
  "an edit outside the vocabulary": { settings: { edits: [{ token: 3 }] }, message: "must be 0 to 2, found 3" },
  "a negative count": { settings: { edits: [{ token: 0, count: -1 }] }, message: "edit_count" },
  "an infinite bias": { settings: { edits: [{ token: 0, bias: Infinity }] }, message: "edit_bias" },
  "a ban of everything": {
    settings: { edits: [0, 1, 2].map((token) => ({ token, banned: true })) },
    message: "bans all 3 tokens",
  },
};
for (const [name, { settings, message }] of Object.entries(REFUSED)) {
  Deno.test(`octavo_sample() refuses ${name}`, () => {
    assertThrows(() => sample(library, new Float32Array(3), settings, 2), Error, message);
  });
}

Deno.test("octavo_sample() refuses a vocabulary that no model has", () => {
  const settings = SAMPLING.encode({
    temperature: 1,
    top_p: 1,
    min_p: 0,
    repetition_penalty: 1,
    presence_penalty: 0,
    frequency_penalty: 0,
    top_k: 0,
    sample_index: 0,
    seed_low: 0,
    seed_high: 0,
    num_edits: 0,
    num_draws: 1,
  });
  const [logits, sampled] = [new Float32Array(1), new Int32Array(1)];
  for (const vocabSize of [0, -1, 2 ** 24 + 1, 2 ** 31 - 1]) {
    const { octavo_sample } = library.symbols;
    assertEquals(octavo_sample(settings, logits, vocabSize, null, null, null, null, sampled, null), 1);
    assertEquals(library.lastError(), `vocab_size must be 1 to 16777216, found ${vocabSize}`);
  }
});
