import { assertEquals } from "@std/assert";
import { BatchWriter } from "../../engine/batch_writer.ts";
import { MaskTable } from "../../engine/mask_table.ts";
import { LiveRequest, type Sequence } from "../../engine/sequence.ts";
import { FakeRunner, greedy } from "./_fake_model.ts";

const { buffers: [buffer] } = new FakeRunner({ maxNumSeqs: 2, maxNumBatchedTokens: 8, pageSize: 4, numPages: 6 });

function sequence(prompt: number[], pages: number[]): Sequence {
  const sampling = greedy({ seed: 2n ** 63n + 5n, logprobs: 2, temperature: 0.5, logitBias: { 3: 1 } });
  const [sequence] = new LiveRequest(0, "", Int32Array.from(prompt), sampling).sequences;
  admit(sequence!, pages);
  return sequence!;
}

function admit(sequence: Sequence, pages: number[]): void {
  sequence.pages = Int32Array.from(pages);
  sequence.numPages = pages.length;
  sequence.numAdmissions++;
  sequence.queryLen = sequence.numPending;
}

const row = (s: number, length: number) => [...buffer.pageTable.subarray(s * 6, s * 6 + length)];

Deno.test("BatchWriter.write() fills the tables of every sequence", () => {
  const [a, b] = [sequence([2, 3, 4, 5, 6], [4, 1]), sequence([7, 8, 9, 10], [0])];
  b.numComputed = 1;
  b.queryLen = 2;
  new BatchWriter(buffer).write([a, b]);
  assertEquals([...buffer.header.subarray(0, 3)], [2, 7, 0]);
  assertEquals([...buffer.tokens.subarray(0, 7)], [2, 3, 4, 5, 6, 8, 9]);
  assertEquals([[...buffer.queryLen], [...buffer.seqLen]], [[5, 2], [5, 3]]);
  // b's chunk ends before its prompt does.
  assertEquals([...buffer.sample], [1, 0]);
  assertEquals([row(0, 2), row(1, 1)], [[4, 1], [0]]);
  assertEquals([...buffer.seed], [5, 2 ** 31, 5, 2 ** 31]);
  assertEquals([[...buffer.temperature], [...buffer.numLogprobs]], [[0.5, 0.5], [2, 2]]);
});

Deno.test("BatchWriter.write() continues with output after the prompt", () => {
  const a = sequence([2, 3], [4, 1]);
  a.output.push(11, 12, 13);
  a.numComputed = 1;
  a.queryLen = a.numPending;
  new BatchWriter(buffer).write([a]);
  assertEquals([...buffer.tokens.subarray(0, 4)], [3, 11, 12, 13]);
  assertEquals([buffer.seqLen[0], buffer.sample[0], buffer.sampleIndex[0]], [5, 1, 3]);
});

Deno.test("BatchWriter.write() rewrites a row whose sequence was preempted and came back to it", () => {
  const writer = new BatchWriter(buffer);
  const a = sequence([2, 3, 4, 5, 6], [4, 1]);
  writer.write([a]);
  admit(a, [3, 5]);
  writer.write([a]);
  assertEquals(row(0, 2), [3, 5]);
});

Deno.test("BatchWriter.write() adds the pages that a sequence was given since", () => {
  const writer = new BatchWriter(buffer);
  const [a, b] = [sequence([2, 3, 4, 5, 6], [4, 1]), sequence([2], [0])];
  writer.write([a, b]);
  a.pages = Int32Array.of(4, 1, 2);
  a.numPages = 3;
  writer.write([a, b]);
  assertEquals(row(0, 3), [4, 1, 2]);
  writer.write([b, a]);
  assertEquals([row(0, 1), row(1, 3)], [[0], [4, 1, 2]]);
});

Deno.test("BatchWriter.write() names as new only the masks that no step before has brought", () => {
  const runner = new FakeRunner({ maxNumSeqs: 4, maxNumBatchedTokens: 8, pageSize: 4, numPages: 6 });
  const table = new MaskTable(4);
  const writers = runner.buffers.map((one) => new BatchWriter(one, table));
  const [a, b, c, d, e] = [[1], [2], [3], [35], null].map((allowedTokenIds, key) => {
    const [one] = new LiveRequest(key, "", Int32Array.of(2), greedy({ allowedTokenIds })).sequences;
    admit(one!, [key]);
    return one!;
  }) as [Sequence, Sequence, Sequence, Sequence, Sequence];
  let turn = 0;
  const write = (batch: Sequence[]) => {
    const { header, maskIndex, tokenMasks } = runner.buffers[turn % 2]!;
    writers[turn++ % 2]!.write(batch);
    const bits = batch.map((_, row) =>
      maskIndex[row] === -1 ? null : [...tokenMasks.subarray(2 * maskIndex[row]!)].slice(0, 2)
    );
    return { header: [header[3], ...header.subarray(5, 8)], bits };
  };
  const [bitsA, bitsB, bitsC, bitsD] = [[2, 0], [4, 0], [8, 0], [0, 8]];
  assertEquals(write([a, e, b]), { header: [2, 1, 0, 2], bits: [bitsA, null, bitsB] });
  // The other buffer holds nothing yet, but the device has both.
  assertEquals(write([b, a]), { header: [2, 1, 0, 0], bits: [bitsB, bitsA] });
  assertEquals(write([e]), { header: [0, 0, 0, 0], bits: [null] });
  assertEquals(write([b, c, d]), { header: [4, 1, 2, 2], bits: [bitsB, bitsC, bitsD] });
  // All places are taken: a's was used last before those of the others.
  const [f] = new LiveRequest(9, "", Int32Array.of(2), greedy({ allowedTokenIds: [4] })).sequences;
  admit(f!, [5]);
  assertEquals(write([f!, d]), { header: [4, 1, 0, 1], bits: [[16, 0], bitsD] });
  assertEquals(write([a]), { header: [2, 1, 1, 1], bits: [bitsA] });
});
