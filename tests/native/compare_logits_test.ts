import { assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { compareLogits } from "../../ffi/compare_logits.ts";
import { Library, NativeError } from "../../ffi/library.ts";
import { libraryPath } from "./_library.ts";
import { makeRandom } from "./_sampler.ts";

const VOCAB_SIZE = 301;

function randomLogits(rows: number, seed: number): Float32Array<ArrayBuffer> {
  const random = makeRandom(seed);
  return Float32Array.from({ length: rows * VOCAB_SIZE }, () => 20 * random() - 10);
}

function logProbabilities(logits: Float32Array): number[] {
  const max = Math.max(...logits);
  const logSum = max + Math.log([...logits].reduce((sum, x) => sum + Math.exp(x - max), 0));
  return Array.from(logits, (x) => x - logSum);
}

Deno.test("compareLogits() gives KL, the target's log-probabilities and the most likely tokens of every row", () => {
  using library = new Library(libraryPath());
  const reference = randomLogits(5, 1);
  const logits = reference.map((x, i) => x + 0.2 * Math.sin(i));
  // Row 3: equal, with an excluded token; row 4: the first of two equally likely tokens counts.
  logits.set(reference.subarray(3 * VOCAB_SIZE, 4 * VOCAB_SIZE), 3 * VOCAB_SIZE);
  reference[3 * VOCAB_SIZE + 7] = logits[3 * VOCAB_SIZE + 7] = -Infinity;
  logits[4 * VOCAB_SIZE + 100] = logits[4 * VOCAB_SIZE + 200] = 50;
  const targets = Int32Array.of(0, 300, -1, 5, 100);
  const compared = compareLogits(library, { reference, logits, vocabSize: VOCAB_SIZE, targets, numThreads: 2 });
  compared.forEach((row, i) => {
    const [p, q] = [reference, logits].map((all) =>
      logProbabilities(all.subarray(i * VOCAB_SIZE, (i + 1) * VOCAB_SIZE))
    ) as [number[], number[]];
    const kl = p.reduce((sum, x, token) => sum + (x === -Infinity ? 0 : Math.exp(x) * (x - q[token]!)), 0);
    assertAlmostEquals(row.kl, kl, 1e-6 * Math.max(1, kl));
    assertEquals([row.referenceTop, row.top], [p.indexOf(Math.max(...p)), q.indexOf(Math.max(...q))]);
    const target = targets[i] === -1 ? row.referenceTop : targets[i]!;
    assertAlmostEquals(row.referenceLogprob, p[target]!, 1e-6);
    assertAlmostEquals(row.logprob, q[target]!, 1e-6);
  });
  assertEquals(compared[3]!.kl, 0);
  assertEquals(compared[4]!.top, 100);
});

Deno.test("compareLogits() tells of the smallest differences: bfloat16's rounding of one logit in ten thousand", () => {
  using library = new Library(libraryPath());
  const reference = randomLogits(1, 2);
  const logits = reference.map((x, i) => i === 9 ? x * (1 + 2 ** -9) : x);
  const targets = Int32Array.of(9);
  const [row] = compareLogits(library, { reference, logits, vocabSize: VOCAB_SIZE, targets, numThreads: 1 });
  const [p, q] = [logProbabilities(reference), logProbabilities(logits)];
  const kl = p.reduce((sum, x, token) => sum + Math.exp(x) * (x - q[token]!), 0);
  assertAlmostEquals(row!.kl / kl, 1, 0.02);
});

Deno.test("compareLogits() refuses targets that are no tokens and rows that are no distributions", () => {
  using library = new Library(libraryPath());
  const reference = randomLogits(2, 3);
  const compare = (logits: Float32Array<ArrayBuffer>, target: number) =>
    compareLogits(library, {
      reference,
      logits,
      vocabSize: VOCAB_SIZE,
      targets: Int32Array.of(target, 0),
      numThreads: 1,
    });
  assertThrows(() => compare(reference, VOCAB_SIZE), NativeError, "targets[0] must be -1 .. 300, found 301");
  assertThrows(() => compare(reference, -2), NativeError, "found -2");
  for (const value of [NaN, Infinity]) {
    const logits = reference.map((x, i) => i === VOCAB_SIZE + 4 ? value : x);
    assertThrows(() => compare(logits, 0), NativeError, "row 1 of the logits");
  }
  assertThrows(() => compare(new Float32Array(2 * VOCAB_SIZE).fill(-Infinity), 0), NativeError, "no distribution");
  assertThrows(() => compare(reference.subarray(1) as Float32Array<ArrayBuffer>, 0), RangeError, "expected 602");
});
