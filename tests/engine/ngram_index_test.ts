import { assertEquals } from "@std/assert";
import { NgramIndex } from "../../engine/ngram_index.ts";

function indexOf(tokens: Iterable<number>, minLength: number): NgramIndex {
  const index = new NgramIndex(minLength, 10_000);
  for (const token of tokens) index.push(token);
  return index;
}

function guesses(tokens: Iterable<number>, minLength: number, count: number): number[] | null {
  const index = indexOf(tokens, minLength);
  const place = index.find();
  if (place === null) return null;
  const target = new Int32Array(count);
  index.copy(place, target);
  return [...target];
}

Deno.test("NgramIndex.find() takes the longest end that stood before, of equal ones the latest", () => {
  assertEquals(guesses([1, 2, 3, 4, 9, 2, 3, 5, 1, 2, 3], 2, 2), [4, 9]);
  assertEquals(guesses([1, 2, 3, 4, 9, 2, 3, 5, 7, 2, 3], 2, 2), [5, 7]);
});

Deno.test("NgramIndex.find() gives null where fewer tokens agree, and in a short text", () => {
  assertEquals(guesses([1, 2, 3, 4, 2, 3], 3, 2), null);
  assertEquals(guesses([], 2, 2), null);
  assertEquals(guesses([4], 2, 2), null);
  assertEquals(guesses([4, 4], 2, 2), null);
});

Deno.test("NgramIndex.copy() goes on with what it has copied past the text's end", () => {
  assertEquals(guesses([5, 1, 2, 1, 2], 2, 5), [1, 2, 1, 2, 1]);
  assertEquals(guesses([7, 7, 7], 2, 4), [7, 7, 7, 7]);
});

Deno.test("NgramIndex finds a run in a text that has outgrown its tables", () => {
  const text = Array.from({ length: 5000 }, (_, i) => (i * i) % 4999);
  assertEquals(guesses([...text, 100_001, 100_002, 100_003, ...text, 100_001, 100_002], 2, 3), [
    100_003,
    ...text.slice(0, 2),
  ]);
});
