import { assertEquals } from "@std/assert";
import fc from "fast-check";
import { StopMatcher } from "../../engine/stop_matcher.ts";

/** Feeds pieces; the texts that came out, and the stop string found. */
function feed(stops: string[], pieces: string[], includeStop = false): { texts: string[]; stop: string | null } {
  const matcher = new StopMatcher(stops, { includeStop });
  const texts: string[] = [];
  for (const piece of pieces) {
    const { text, stop } = matcher.push(piece);
    texts.push(text);
    if (stop !== null) return { texts, stop };
  }
  texts.push(matcher.flush());
  return { texts, stop: null };
}

Deno.test("StopMatcher.push() finds a stop string across pieces and leaks none of it", () => {
  assertEquals(feed(["STOP"], ["a S", "T", "OP b"]), { texts: ["a ", "", ""], stop: "STOP" });
  assertEquals(feed(["STOP"], ["a S", "T", "OP b"], true), { texts: ["a ", "", "STOP"], stop: "STOP" });
  assertEquals(feed(["STOP"], ["xSTOPy"]), { texts: ["x"], stop: "STOP" });
});

// After vllm#3574, TGI#1254: holding back a fixed window delays text that can be no stop string.
Deno.test("StopMatcher.push() holds back only the longest proper beginning of a stop string", () => {
  assertEquals(feed(["</think>"], ["a<", "/th", "x", "</"]).texts, ["a", "", "</thx", "", "</"]);
  assertEquals(feed(["aab"], ["aa", "a", "a", "c"]).texts, ["", "a", "a", "aac", ""]);
  assertEquals(feed(["abcd", "bc!"], ["abc", "?"]).texts, ["", "abc?", ""]);
});

Deno.test("StopMatcher.push() takes the stop string that is complete first, and of several the longest", () => {
  assertEquals(feed(["cd", "abcde"], ["xabcdef"]), { texts: ["xab"], stop: "cd" });
  assertEquals(feed(["d", "bcd"], ["abcd"]), { texts: ["a"], stop: "bcd" });
  assertEquals(feed(["bcd", "abcd", "d"], ["ab", "cd"]), { texts: ["", ""], stop: "abcd" });
});

Deno.test("StopMatcher.push() keeps surrogate pairs whole", () => {
  assertEquals(feed(["😀!"], ["x😀", "😁"]).texts, ["x", "😀😁", ""]);
});

Deno.test("StopMatcher passes everything on when there are no stop strings", () => {
  assertEquals(feed([], ["a", "", "b"]).texts, ["a", "", "b", ""]);
});

Deno.test("StopMatcher gives the same text and stop however the text is cut", () => {
  const letters = (minLength: number) => fc.string({ unit: fc.constantFrom("a", "b", "c"), minLength, maxLength: 5 });
  const pieces = fc.array(letters(0), { maxLength: 15, size: "max" });
  const stops = fc.array(letters(1), { maxLength: 3 });
  fc.assert(
    fc.property(pieces, stops, fc.boolean(), (pieces, stops, includeStop) => {
      const got = feed(stops, pieces, includeStop);
      const expected = search(pieces.join(""), stops, includeStop);
      assertEquals({ text: got.texts.join(""), stop: got.stop }, expected);
    }),
    { numRuns: 2000 },
  );
});

/** The definition: the first end at which a stop string is complete, the longest one there. */
function search(text: string, stops: string[], includeStop: boolean): { text: string; stop: string | null } {
  for (let end = 1; end <= text.length; end++) {
    const found = stops.filter((stop) => text.slice(0, end).endsWith(stop)).sort((a, b) => b.length - a.length)[0];
    if (found !== undefined) return { text: text.slice(0, includeStop ? end : end - found.length), stop: found };
  }
  return { text, stop: null };
}
