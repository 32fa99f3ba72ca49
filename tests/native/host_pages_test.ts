import { assertEquals, assertNotEquals, assertThrows } from "@std/assert";
import { Library, NativeError } from "../../ffi/library.ts";
import type { NativeEngine } from "../../ffi/native_engine.ts";
import { KV_DTYPES } from "./_kv.ts";
import { libraryPath } from "./_library.ts";
import { loadModel, makeRandomModel, openEngine, randomTokens, runStep } from "./_random_model.ts";

const library = new Library(libraryPath());
// Heads of 32 dims, which all formats take.
const model = makeRandomModel({ config: { headDim: 32, invFreq: new Float32Array(32).fill(0.1) } });
const native = loadModel(library, model);
const prompt = randomTokens(40, model.config.vocabSize, 1);
const other = randomTokens(48, model.config.vocabSize, 2);
const ids = (...values: number[]) => Int32Array.from(values);

/** The logits of the prompt's last token, whose K and V before lie in `pages`. */
function lastLogits(engine: NativeEngine, pages: number[]): Float32Array {
  return runStep(engine, [{ tokens: prompt.slice(-1), cached: prompt.length - 1, pages }])[0]!;
}

for (const kvDtype of KV_DTYPES) {
  Deno.test(`octavo_engine_restore_pages() brings back what was saved, bit for bit (${kvDtype})`, () => {
    using engine = openEngine(native, { kvDtype, numHostPages: 7 });
    runStep(engine, [{ tokens: prompt, pages: [5, 0, 3] }]);
    const expected = lastLogits(engine, [5, 0, 3]);
    engine.savePages(ids(5, 0, 3), ids(6, 2, 4));
    runStep(engine, [{ tokens: other, pages: [0, 3, 5] }]);
    assertNotEquals(lastLogits(engine, [5, 0, 3]), expected);
    engine.restorePages(ids(1, 3, 7), ids(6, 2, 4));
    assertEquals(lastLogits(engine, [1, 3, 7]), expected);
    engine.savePages(ids(1, 3), ids(0, 1));
    assertEquals(engine.hostPage(0), engine.hostPage(6));
    assertEquals(engine.hostPage(1), engine.hostPage(2));
    assertNotEquals(engine.hostPage(0), engine.hostPage(1));
    assertEquals(engine.hostPage(3), new Uint8Array(native.kvPageBytes(kvDtype, 16)));
  });
}

Deno.test("octavo_engine_transfer_stats() counts calls, bytes and seconds of each direction", () => {
  using engine = openEngine(native, { kvDtype: "float32", numHostPages: 2 });
  const zero = { savedBytes: 0, savedSeconds: 0, restoredBytes: 0, restoredSeconds: 0 };
  assertEquals(engine.transferStats(), { numSubmitted: 0, numFinished: 0, ...zero });
  engine.savePages(ids(), ids());
  assertEquals(engine.transferStats().numSubmitted, 0);
  engine.savePages(ids(0, 1), ids(1, 0));
  engine.restorePages(ids(1), ids(1));
  const { savedSeconds, restoredSeconds, ...stats } = engine.transferStats();
  const pageBytes = native.kvPageBytes("float32", 16);
  assertEquals(stats, { numSubmitted: 2, numFinished: 2, savedBytes: 2 * pageBytes, restoredBytes: pageBytes });
  assertEquals([savedSeconds > 0, restoredSeconds > 0], [true, true]);
});

Deno.test("octavo_engine_save_pages() refuses pages that there are not, and copies none", () => {
  using engine = openEngine(native, { kvDtype: "float32", numPages: 4, numHostPages: 2 });
  runStep(engine, [{ tokens: prompt, pages: [0, 1, 2] }]);
  const refuse = (call: () => void, text: string) => assertThrows(call, NativeError, text);
  for (const page of [-1, 4]) {
    refuse(() => engine.savePages(ids(0, page), ids(0, 1)), `a page of a transfer must be 0 to 3, found ${page}`);
    refuse(() => engine.restorePages(ids(page), ids(0)), `a page of a transfer must be 0 to 3, found ${page}`);
  }
  for (const page of [-1, 2]) {
    refuse(() => engine.savePages(ids(0, 0), ids(0, page)), `a host page of a transfer must be 0 to 1, found ${page}`);
    refuse(() => engine.hostPage(page), `host_page must be 0 to 1, found ${page}`);
  }
  assertEquals(engine.hostPage(0), new Uint8Array(native.kvPageBytes("float32", 16)));
  using none = openEngine(native, { kvDtype: "float32" });
  refuse(() => none.savePages(ids(0), ids(0)), "a host page of a transfer must be 0 to -1, found 0");
  refuse(() => openEngine(native, { numHostPages: -1 }), "num_host_pages must be 0 to 2147483647, found -1");
  refuse(() => openEngine(native, { numHostPages: 2 ** 31 - 1 }), "2147483647 host pages need");
});

Deno.test("octavo_engine_page_checksum() tells equal pages from others, wherever they lie", () => {
  for (const kvDtype of KV_DTYPES) {
    using engine = openEngine(native, { kvDtype, numHostPages: 1 });
    const empty = engine.pageChecksum(6);
    assertEquals(engine.pageChecksum(5), empty);
    runStep(engine, [{ tokens: prompt, pages: [5, 0, 3] }]);
    const [full, partial] = [engine.pageChecksum(5), engine.pageChecksum(3)];
    assertEquals(new Set([empty, full, partial, engine.pageChecksum(0)]).size, 4);
    runStep(engine, [{ tokens: [7], cached: prompt.length, pages: [5, 0, 3] }]);
    assertEquals(engine.pageChecksum(5), full);
    assertNotEquals(engine.pageChecksum(3), partial);
    engine.savePages(ids(5), ids(0));
    engine.restorePages(ids(7), ids(0));
    assertEquals(engine.pageChecksum(7), full);
    assertEquals(engine.pageChecksum(7), checksum(engine.hostPage(0)));
    const refused = `page must be 0 to ${63}, found`;
    for (const page of [-1, 64]) {
      assertThrows(() => engine.pageChecksum(page), NativeError, `${refused} ${page}`);
    }
  }
});

/** Its definition: each word of 8 bytes, mixed with its place, added up. */
function checksum(bytes: Uint8Array<ArrayBuffer>): bigint {
  let sum = 0n;
  new BigUint64Array(bytes.buffer).forEach((word, place) => {
    const u64 = (value: bigint) => BigInt.asUintN(64, value);
    let z = u64(word + u64(BigInt(place + 1) * 0x9e3779b97f4a7c15n));
    z = u64((z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n);
    z = u64((z ^ (z >> 27n)) * 0x94d049bb133111ebn);
    sum = u64(sum + (z ^ (z >> 31n)));
  });
  return sum;
}
