import { assertEquals } from "@std/assert";
import { SequenceOutput } from "../../engine/sequence_output.ts";
import { EOS, greedy, PIECES, TABLE } from "./_fake_model.ts";

const ids = (...texts: string[]) => texts.map((text) => PIECES.indexOf(text));

function output(options: Parameters<typeof greedy>[0]): SequenceOutput {
  return new SequenceOutput({
    table: TABLE,
    sampling: greedy({ maxTokens: 100, ...options }),
    eosTokenIds: [EOS],
    isTextStart: false,
  });
}

/** [text, finishReason, stopReason] for each token. */
function run(options: Parameters<typeof greedy>[0], tokens: number[]) {
  const sequence = output(options);
  return tokens.map((token) => Object.values(sequence.push(token)));
}

const GOING = [null, null];

Deno.test("SequenceOutput.push() finishes at end-of-sequence without its text", () => {
  assertEquals(run({ skipSpecialTokens: false }, [...ids("a"), EOS]), [["a", ...GOING], ["", "stop", null]]);
  assertEquals(run({ skipSpecialTokens: false, includeStopStrInOutput: true }, [EOS]), [["<eos>", "stop", null]]);
  assertEquals(run({ ignoreEos: true }, [EOS, ...ids("a")]), [["", ...GOING], ["a", ...GOING]]);
});

Deno.test("SequenceOutput.push() finishes at a stop token id and names it", () => {
  const [a = 0, b = 0] = ids("a", "b");
  assertEquals(run({ stopTokenIds: [b] }, [a, b]), [["a", ...GOING], ["", "stop", b]]);
  assertEquals(run({ stopTokenIds: [b], includeStopStrInOutput: true }, [b]), [["b", "stop", b]]);
});

Deno.test("SequenceOutput.push() finishes at a stop string across tokens", () => {
  assertEquals(run({ stop: ["b the"] }, ids("a", "b", " the")), [["a", ...GOING], ["", ...GOING], [
    "",
    "stop",
    "b the",
  ]]);
});

Deno.test("SequenceOutput.push() prefers a stop string to the length limit", () => {
  assertEquals(run({ stop: ["b"], maxTokens: 2 }, ids("a", "b")), [["a", ...GOING], ["", "stop", "b"]]);
});

Deno.test("SequenceOutput.push() gives held text at the length limit and at end-of-sequence", () => {
  assertEquals(run({ stop: ["bcd"], maxTokens: 2 }, ids("b", "c")), [["", ...GOING], ["bc", "length", null]]);
  assertEquals(run({ stop: ["bcd"] }, [...ids("b"), EOS]), [["", ...GOING], ["b", "stop", null]]);
  assertEquals(run({ maxTokens: 1 }, [28]), [["\ufffd", "length", null]]);
});

Deno.test("SequenceOutput.push() looks for stops only after minTokens", () => {
  const [a = 0] = ids("a");
  assertEquals(run({ stop: ["a"], minTokens: 2 }, [a, a, a]), [["a", ...GOING], ["a", ...GOING], ["", "stop", "a"]]);
  assertEquals(run({ stopTokenIds: [a], minTokens: 1 }, [a, a]), [["a", ...GOING], ["", "stop", a]]);
});

Deno.test("SequenceOutput.flush() gives held text when a sequence is aborted", () => {
  const sequence = output({ stop: ["abc"] });
  for (const token of ids("a", "b")) assertEquals(sequence.push(token).text, "");
  assertEquals(sequence.push(28).text, "");
  assertEquals(sequence.flush(), "ab\ufffd");
});
