import { assertEquals, assertNotEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { Library, NativeError } from "../../ffi/library.ts";
import type { KvKind, NativeEngine } from "../../ffi/native_engine.ts";
import { libraryPath } from "./_library.ts";
import { type EngineSettings, loadModel, makeRandomModel, openEngine, randomTokens, runStep } from "./_random_model.ts";

const library = new Library(libraryPath());
// Heads of 32 dims, which all formats take; one layer of three keeps its own dtype, and one has a window.
const model = makeRandomModel({
  config: {
    headDim: 32,
    invFreq: new Float32Array(32).fill(0.1),
    numLayers: 3,
    layers: [
      { slidingWindow: 0, ropeTable: 0 },
      { slidingWindow: 20, ropeTable: 0 },
      { slidingWindow: 0, ropeTable: 0, kvDtype: "bfloat16" },
    ],
  },
});
const native = loadModel(library, model);
const { numLayers, numKvHeads } = model.config;
const SCALES = new Float32Array(numLayers * 2 * numKvHeads).map((_, i) => 0.01 + 0.002 * i);

const KINDS: readonly KvKind[] = [
  { kvDtype: "float32", pageSize: 16 },
  { kvDtype: "fp8_e4m3", pageSize: 64 },
  { kvDtype: "bfloat16", pageSize: 32 },
  { kvDtype: "int8", pageSize: 32 },
  { kvDtype: "k8v4", pageSize: 64 },
  { kvDtype: "int4", pageSize: 64 },
  { kvDtype: "fp8_per_token_head", pageSize: 16 },
  { kvDtype: "fp8_e4m3", pageSize: 16 },
];
const PROMPTS = KINDS.map((_, i) => randomTokens(70 + 3 * i, model.config.vocabSize, i + 1));

function openMixed(settings: EngineSettings = {}): NativeEngine {
  const [first, ...more] = KINDS as [KvKind, ...KvKind[]];
  return openEngine(native, { ...first, moreKvDtypes: more, maxNumBatchedTokens: 700, kvScales: SCALES, ...settings });
}

/** Every sequence has 8 pages of its own, in an order of its own. */
const pagesOf = (i: number) => Array.from({ length: 8 }, (_, at) => 8 * ((i + at) % 8) + i);

/** The logits of a prompt in three parts: 30 tokens, all but one of the rest, and that one. */
function logitsAlone(i: number): Float32Array[] {
  using engine = openEngine(native, { ...KINDS[i]!, maxNumBatchedTokens: 700, kvScales: SCALES });
  const tokens = PROMPTS[i]!;
  const end = tokens.length - 1;
  return [[0, 30], [30, end], [end, end + 1]].map(([begin = 0, to]) =>
    runStep(engine, [{ tokens: tokens.slice(begin, to), cached: begin, pages: pagesOf(i) }])[0]!
  );
}

Deno.test("octavo_step() gives each sequence of a mixed step what its KV dtype gives alone, bit for bit", () => {
  const expected = KINDS.map((_, i) => logitsAlone(i));
  using engine = openMixed();
  const part = (i: number, begin: number, end: number) => ({
    tokens: PROMPTS[i]!.slice(begin, end),
    cached: begin,
    pages: pagesOf(i),
    kvIndex: i,
  });
  const all = KINDS.map((_, i) => i);
  const last = (i: number) => PROMPTS[i]!.length - 1;
  assertEquals(runStep(engine, all.map((i) => part(i, 0, 30))), all.map((i) => expected[i]![0]!));
  // Some prefill while the others wait, then those decode while the last one prefills.
  const some = [1, 3, 4, 6];
  assertEquals(runStep(engine, some.map((i) => part(i, 30, last(i)))), some.map((i) => expected[i]![1]!));
  const mixed = all.map((i) => some.includes(i) ? part(i, last(i), last(i) + 1) : part(i, 30, last(i)));
  assertEquals(runStep(engine, mixed), all.map((i) => expected[i]![some.includes(i) ? 2 : 1]!));
  const rest = all.filter((i) => !some.includes(i));
  assertEquals(runStep(engine, rest.map((i) => part(i, last(i), last(i) + 1))), rest.map((i) => expected[i]![2]!));
});

Deno.test("octavo_step() lets a page serve one KV dtype after the other", () => {
  const expected = [0, 5, 3].map((i) => logitsAlone(i));
  using engine = openMixed();
  [0, 5, 3].forEach((i, at) => {
    const tokens = PROMPTS[i]!;
    runStep(engine, [{ tokens: tokens.slice(0, -1), pages: [4, 1, 2, 3, 5], kvIndex: i, sample: 0 }]);
    const rows = [{ tokens: tokens.slice(-1), cached: tokens.length - 1, pages: [4, 1, 2, 3, 5], kvIndex: i }];
    assertEquals(runStep(engine, rows)[0], expected[at]![2]);
  });
});

Deno.test("octavo_engine_restore_pages() brings back pages of every KV dtype of an engine", () => {
  using engine = openMixed({ numHostPages: 8 });
  for (const i of [0, 1, 5]) {
    const tokens = PROMPTS[i]!;
    const last = (pages: number[]) =>
      runStep(engine, [{ tokens: tokens.slice(-1), cached: tokens.length - 1, pages, kvIndex: i }])[0]!;
    runStep(engine, [{ tokens: tokens.slice(0, -1), pages: [0, 1, 2, 3, 4], kvIndex: i, sample: 0 }]);
    const expected = last([0, 1, 2, 3, 4]);
    engine.savePages(Int32Array.of(0, 1, 2, 3, 4), Int32Array.of(7, 6, 5, 4, 3));
    runStep(engine, [{ tokens: PROMPTS[7]!, pages: [0, 1, 2, 3, 4, 5], kvIndex: 7 }]);
    assertNotEquals(last([0, 1, 2, 3, 4]), expected);
    engine.restorePages(Int32Array.of(9, 8, 7, 6, 5), Int32Array.of(7, 6, 5, 4, 3));
    assertEquals(last([9, 8, 7, 6, 5]), expected);
  }
  const pageBytes = Math.max(...KINDS.map(({ kvDtype, pageSize }) => native.kvPageBytes(kvDtype, pageSize)));
  assertEquals(engine.hostPage(0).length, pageBytes);
});

Deno.test("octavo_step() with calculate_kv_scales sets the scales of an FP8 dtype that is not the first", () => {
  const moreKvDtypes = [{ kvDtype: "fp8_e4m3", pageSize: 32 }] as const;
  using engine = openEngine(native, { kvDtype: "float32", moreKvDtypes, calculateKvScales: true });
  const tokens = PROMPTS[0]!;
  const exact = runStep(engine, [{ tokens, pages: [0, 1, 2, 3, 4] }])[0];
  const scales = Array.from(engine.kvScales());
  const perLayer = 2 * numKvHeads;
  const isOne = Array.from(
    { length: numLayers },
    (_, layer) => scales.slice(layer * perLayer, (layer + 1) * perLayer).every((scale) => scale === 1),
  );
  assertEquals(isOne, [false, false, true]);
  using alone = openEngine(native, { kvDtype: "float32" });
  assertEquals(runStep(alone, [{ tokens, pages: [0, 1, 2, 3, 4] }])[0], exact);
});

Deno.test("octavo_step() refuses a kv_index that there is not or that falls", () => {
  using engine = openMixed();
  const rowsOf = (...kvIndices: number[]) => kvIndices.map((kvIndex, s) => ({ tokens: [1], pages: [s], kvIndex }));
  const refused = (rows: ReturnType<typeof rowsOf>, text: string) => {
    const error = assertThrows(() => runStep(engine, rows), NativeError);
    assertStringIncludes((error as Error).message, text);
  };
  refused(rowsOf(8), "kv_index of sequence 0 must be 0 to 7, found 8");
  refused(rowsOf(-1), "kv_index of sequence 0 must be 0 to 7, found -1");
  refused(rowsOf(1, 3, 2), "kv_index of sequence 2 must be 3 to 7, found 2");
  // 16 pages of 16 tokens, of 64 tokens.
  const long = (kvIndex: number) => [{ tokens: [1], cached: 256, pages: pagesOf(0).concat(pagesOf(1)), kvIndex }];
  refused(long(0), "seq_len of sequence 0 must be its query_len 1 to 256, found 257");
  refused(rowsOf(1).map((row) => ({ ...row, pages: [64] })), "page 0 of sequence 0 must be 0 to 63, found 64");
});

Deno.test("octavo_engine_create() refuses KV dtypes and page sizes that there are not", () => {
  const refused = (moreKvDtypes: readonly KvKind[], text: string) => {
    const error = assertThrows(() => openEngine(native, { moreKvDtypes }));
    assertStringIncludes((error as Error).message, text);
  };
  refused([{ kvDtype: "int8", pageSize: 48 }], "page_size must be 16, 32 or 64, found 48");
  refused(Array.from({ length: 8 }, () => KINDS[0]!), "num_more_kv_dtypes must be 0 to 7, found 8");
});
