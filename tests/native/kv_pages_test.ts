import { assertEquals, assertStringIncludes } from "@std/assert";
import { KV_DTYPE, STATUS } from "../../ffi/enums.ts";
import {
  byteAddress,
  codeBytes,
  encodeShape,
  hasOwnScales,
  KV_DTYPES,
  type KvDtype,
  type KvShape,
  packedBytes,
  pageBytes,
  randomFloats,
  randomNumbers,
  scaleAddress,
  scalesOf,
  shuffled,
  takesHeadDim,
} from "./_kv.ts";
import { isRotated, packRow } from "./_own_scales.ts";
import { openEachIsa } from "./_library.ts";

const LIBRARIES = openEachIsa(
  ["octavo_kv_layer_page_bytes", "octavo_kv_append", "octavo_kv_pack", "octavo_kv_unpack", "octavo_quantize"],
  ["portable", "avx2", "avx512"],
);
const POISON = 0xa5;
/** Row widths below 64 bytes, of 64, of 128, of several blocks, and with a rest, for every element size. */
const HEAD_DIMS = [8, 16, 24, 64, 72, 80, 128, 136, 256];

function shapeOf(kvDtype: KvDtype, headDim: number, pageSize: number): KvShape {
  return { kvDtype, headDim, pageSize, numPages: 5, numKvHeads: 3 };
}

/** Distinct random slots, some of them -1. */
function randomSlots(shape: KvShape, numTokens: number): Int32Array<ArrayBuffer> {
  const random = randomNumbers(shape.headDim);
  const slots = shuffled(shape.numPages * shape.pageSize, random).slice(0, numTokens);
  return Int32Array.from(slots, (slot, i) => i % 7 === 3 ? -1 : slot);
}

/** Pages of poison with the rows of k and v at their slots, by the test's own address function. */
function expectedPages(shape: KvShape, slots: Int32Array, k: Uint8Array, v: Uint8Array): Uint8Array {
  const pages = new Uint8Array(shape.numPages * (shape.pageStride ?? pageBytes(shape))).fill(POISON);
  const { kvDtype, headDim } = shape;
  slots.forEach((slot, i) => {
    if (slot < 0) return;
    for (let head = 0; head < shape.numKvHeads; head++) {
      for (const [part, rows] of [["k", k], ["v", v]] as const) {
        const bytes = codeBytes(kvDtype, headDim, part);
        const row = (i * shape.numKvHeads + head) * packedBytes(kvDtype, headDim, part);
        for (let byte = 0; byte < Math.ceil(bytes / 16) * 16; byte++) {
          pages[byteAddress(shape, { slot, head, part, byte })] = byte < bytes ? rows[row + byte]! : 0;
        }
        const scales = scalesOf(kvDtype, headDim, part);
        for (let index = 0; index < scales.count; index++) {
          const scale = rows.subarray(row + bytes + index * scales.bytes).subarray(0, scales.bytes);
          pages.set(scale, scaleAddress(shape, { slot, head, part, index }));
        }
      }
    }
  });
  return pages;
}

/** Rows whose scale is an edge: all 0, tiny, huge, infinite, NaN. */
function spoil(rows: Float32Array, headDim: number) {
  const row = (i: number) => rows.subarray(i * headDim, (i + 1) * headDim);
  row(0).fill(0);
  row(1).fill(-0);
  row(2).fill(1e-42);
  row(3).fill(1e-45);
  row(4).fill(3e38);
  row(5)[3] = Infinity;
  row(6)[5] = NaN;
}

function assertSameBytes(found: Uint8Array, expected: Uint8Array, what: string) {
  assertEquals(found.length, expected.length, what);
  const i = found.findIndex((byte, at) => byte !== expected[at]);
  if (i >= 0) throw new Error(`${what}: expected ${expected[i]} at byte ${i}, found ${found[i]}`);
}

for (const library of LIBRARIES) {
  const { symbols } = library;

  Deno.test(`octavo_kv_layer_page_bytes() follows the layout's formula (${library.isa})`, () => {
    for (const kvDtype of KV_DTYPES) {
      for (const headDim of HEAD_DIMS.filter((headDim) => takesHeadDim(kvDtype, headDim))) {
        for (const pageSize of [16, 32, 64]) {
          const shape = shapeOf(kvDtype, headDim, pageSize);
          assertEquals(symbols.octavo_kv_layer_page_bytes(encodeShape(shape)), pageBytes(shape));
        }
      }
    }
    assertEquals(pageBytes(shapeOf("fp8_e4m3", 128, 16)), 3 * 4096);
    assertEquals(pageBytes(shapeOf("bfloat16", 24, 64)), 3 * 4 * 2 * 16 * 48);
    assertEquals(pageBytes(shapeOf("int8", 128, 16)), 3 * 4224);
    assertEquals(pageBytes(shapeOf("k8v4", 128, 16)), 3 * (2048 + 1024 + 64 + 128));
    assertEquals(pageBytes(shapeOf("int4", 128, 16)), 3 * 2304);
  });

  Deno.test(`octavo_kv_append() stores what octavo_quantize() gives, in the granule layout (${library.isa})`, () => {
    const scales = new Float32Array([0.5, 0.3, 1, 2, 0.7, 41 / 1024]);
    for (const kvDtype of KV_DTYPES) {
      for (const headDim of HEAD_DIMS.filter((headDim) => takesHeadDim(kvDtype, headDim))) {
        const shape = shapeOf(kvDtype, headDim, headDim % 3 === 0 ? 32 : headDim === 64 ? 64 : 16);
        const slots = randomSlots(shape, 41);
        const random = randomNumbers(headDim);
        const [k, v] = [0, 1].map(() => randomFloats(41 * 3 * headDim, random, 50));
        const ownScales = hasOwnScales(kvDtype);
        if (ownScales) spoil(k!, headDim);
        // Taken off K in rotated formats, where it is of f32's precision.
        const mean = isRotated(kvDtype) && headDim % 3 !== 0 ? randomFloats(3 * headDim, random, 20) : null;
        const storeRow = (x: Float32Array<ArrayBuffer>, part: "k" | "v", scale: number) => {
          if (ownScales) return packRow(library, kvDtype, part, x);
          const stored = new Uint8Array(packedBytes(kvDtype, headDim, part));
          library.check(symbols.octavo_quantize(KV_DTYPE[kvDtype], x, headDim, scale, stored));
          return stored;
        };
        const [storedK, storedV] = ([["k", k!], ["v", v!]] as const).map(([part, x], kind) => {
          const bytes = packedBytes(kvDtype, headDim, part);
          const stored = new Uint8Array(41 * 3 * bytes);
          for (let row = 0; row < 41 * 3; row++) {
            const values = x.slice(row * headDim, (row + 1) * headDim);
            if (part === "k" && mean !== null) values.forEach((_, i) => values[i]! -= mean[row % 3 * headDim + i]!);
            stored.set(storeRow(values, part, scales[kind * 3 + row % 3]!), row * bytes);
          }
          return stored;
        });
        const pages = new Uint8Array(5 * pageBytes(shape)).fill(POISON);
        const given = ownScales ? null : scales;
        library.check(symbols.octavo_kv_append(encodeShape(shape), pages, k!, v!, slots, 41, given, mean));
        assertSameBytes(pages, expectedPages(shape, slots, storedK!, storedV!), `${kvDtype} x ${headDim}`);
      }
    }
  });

  Deno.test(`octavo_kv_append() stores the same bytes in chunks of any size (${library.isa})`, () => {
    const numTokens = 2048;
    for (const kvDtype of KV_DTYPES) {
      const shape = { kvDtype, pageSize: 16, numPages: numTokens / 16, numKvHeads: 1, headDim: 32 };
      const slots = shuffled(numTokens, randomNumbers(3));
      const [k, v] = [5, 6].map((seed) => randomFloats(numTokens * 32, randomNumbers(seed), 50));
      const pagesOf = (chunk: number) => {
        const pages = new Uint8Array(shape.numPages * pageBytes(shape)).fill(POISON);
        for (let begin = 0; begin < numTokens; begin += chunk) {
          const end = Math.min(begin + chunk, numTokens);
          const [kRows, vRows] = [k!, v!].map((rows) => rows.slice(begin * 32, end * 32));
          const at = Int32Array.from(slots.slice(begin, end));
          const status = symbols.octavo_kv_append(
            encodeShape(shape),
            pages,
            kRows!,
            vRows!,
            at,
            end - begin,
            null,
            null,
          );
          library.check(status);
        }
        return pages;
      };
      const whole = pagesOf(numTokens);
      for (const chunk of [1, 15, 16, 17, 511]) assertSameBytes(pagesOf(chunk), whole, `${kvDtype} by ${chunk}`);
    }
  });

  Deno.test(`octavo_kv_append() writes nothing between pages that are page_stride apart (${library.isa})`, () => {
    for (const kvDtype of ["float32", "int8"] as const) {
      const dense = shapeOf(kvDtype, 64, 32);
      const shape = { ...dense, pageStride: pageBytes(dense) + 48 };
      const x = randomFloats(41 * 3 * 64, randomNumbers(1));
      const slots = randomSlots(shape, 41);
      const pages = new Uint8Array(5 * shape.pageStride).fill(POISON);
      library.check(symbols.octavo_kv_append(encodeShape(shape), pages, x, x, slots, 41, null, null));
      const rows = ["k", "v"].map(() => new Uint8Array(41 * 3 * packedBytes(kvDtype, 64, "k")));
      library.check(symbols.octavo_kv_unpack(encodeShape(shape), pages, rows[0]!, rows[1]!, slots, 41));
      assertSameBytes(pages, expectedPages(shape, slots, rows[0]!, rows[1]!), kvDtype);
      const densePages = new Uint8Array(5 * pageBytes(dense)).fill(POISON);
      library.check(symbols.octavo_kv_append(encodeShape(dense), densePages, x, x, slots, 41, null, null));
      assertSameBytes(densePages, expectedPages(dense, slots, rows[0]!, rows[1]!), `${kvDtype} without a gap`);
    }
  });

  Deno.test(`octavo_kv_append() without scales stores the values themselves (${library.isa})`, () => {
    const shape = shapeOf("float32", 16, 16);
    const x = randomFloats(2 * 3 * 16, randomNumbers(1));
    const pages = new Uint8Array(5 * pageBytes(shape)).fill(POISON);
    const slots = new Int32Array([70, 3]);
    library.check(symbols.octavo_kv_append(encodeShape(shape), pages, x, x, slots, 2, null, null));
    const bytes = new Uint8Array(x.buffer);
    assertSameBytes(pages, expectedPages(shape, slots, bytes, bytes), "pages");
  });

  Deno.test(`octavo_kv_pack() and octavo_kv_unpack() copy every bit and skip slot -1 (${library.isa})`, () => {
    for (const kvDtype of KV_DTYPES) {
      for (const headDim of HEAD_DIMS.filter((headDim) => takesHeadDim(kvDtype, headDim))) {
        const shape = shapeOf(kvDtype, headDim, headDim === 80 ? 64 : 32);
        const slots = randomSlots(shape, 41);
        const random = randomNumbers(headDim + 1);
        const parts = ["k", "v"] as const;
        const [kBytes, vBytes] = parts.map((part) => 3 * packedBytes(kvDtype, headDim, part));
        const [k, v] = [kBytes!, vBytes!].map((rowBytes) =>
          Uint8Array.from({ length: 41 * rowBytes }, () => 256 * random())
        );
        const pages = new Uint8Array(5 * pageBytes(shape)).fill(POISON);
        library.check(symbols.octavo_kv_pack(encodeShape(shape), pages, k!, v!, slots, 41));
        assertSameBytes(pages, expectedPages(shape, slots, k!, v!), `${kvDtype} x ${headDim}`);

        const [backK, backV] = [k!, v!].map((rows) => new Uint8Array(rows.length).fill(POISON));
        library.check(symbols.octavo_kv_unpack(encodeShape(shape), pages, backK!, backV!, slots, 41));
        slots.forEach((slot, i) => {
          if (slot >= 0) return;
          k!.fill(POISON, i * kBytes!, (i + 1) * kBytes!);
          v!.fill(POISON, i * vBytes!, (i + 1) * vBytes!);
        });
        assertSameBytes(backK!, k!, `k of ${kvDtype} x ${headDim}`);
        assertSameBytes(backV!, v!, `v of ${kvDtype} x ${headDim}`);
      }
    }
  });

  Deno.test(`KV functions reject what is out of range and write nothing (${library.isa})`, () => {
    const good = shapeOf("fp8_e4m3", 64, 16);
    const rejected: [Partial<Omit<KvShape, "kvDtype">>, string][] = [
      [{ pageSize: 48 }, "page_size must be 16, 32 or 64, found 48"],
      [{ numPages: 0 }, "num_pages must be 1 to 2147483647, found 0"],
      [{ numKvHeads: 0 }, "num_kv_heads must be 1 to 65536, found 0"],
      [{ numKvHeads: -1 }, "found -1"],
      [{ headDim: 4 }, "head_dim must be 8 to 256, found 4"],
      [{ headDim: 264 }, "head_dim must be 8 to 256, found 264"],
      [{ headDim: 12 }, "head_dim must be a multiple of 8, found 12"],
      [{ pageStride: 6128 }, "a multiple of 16 and at least a page's 6144 bytes, found 6128"],
      [{ pageStride: 6152 }, "found 6152"],
      [{ pageStride: -16 }, "found -16"],
    ];
    for (const [change, text] of rejected) {
      assertEquals(symbols.octavo_kv_layer_page_bytes(encodeShape({ ...good, ...change })), 0);
      assertStringIncludes(library.lastError(), text);
    }
    for (const kvDtype of ["k8v4", "int4"] as const) {
      assertEquals(symbols.octavo_kv_layer_page_bytes(encodeShape(shapeOf(kvDtype, 80, 16))), 0);
      assertStringIncludes(library.lastError(), "needs a head_dim that is a multiple of 32, found 80");
    }
    const widest = { ...shapeOf("float32", 256, 64), numKvHeads: 65536, numPages: 2 ** 31 - 1 };
    assertEquals(symbols.octavo_kv_layer_page_bytes(encodeShape(widest)), 0);
    assertStringIncludes(library.lastError(), "num_pages 2147483647 of 8589934592 bytes exceed the address space");
    const unknown = encodeShape(good);
    new Int32Array(unknown.buffer)[0] = 10;
    assertEquals(symbols.octavo_kv_layer_page_bytes(unknown), 0);
    assertStringIncludes(library.lastError(), "found 10");
    assertEquals(symbols.octavo_kv_layer_page_bytes(null), 0);
    assertStringIncludes(library.lastError(), "shape must not be NULL");

    const pages = new Uint8Array(5 * pageBytes(good)).fill(POISON);
    const x = new Float32Array(2 * 3 * 64);
    const bytes = new Uint8Array(2 * 3 * 64);
    const shape = encodeShape(good);
    const expectInvalid = (status: number, text: string) => {
      assertEquals(status, STATUS.INVALID_ARGUMENT);
      assertStringIncludes(library.lastError(), text);
    };
    for (const slot of [-2, 80, 2147483647, -2147483648]) {
      const slots = new Int32Array([0, slot]);
      const text = `slot of token 1 must be -1 to 79, found ${slot}`;
      expectInvalid(symbols.octavo_kv_append(shape, pages, x, x, slots, 2, null, null), text);
      expectInvalid(symbols.octavo_kv_pack(shape, pages, bytes, bytes, slots, 2), text);
      expectInvalid(symbols.octavo_kv_unpack(shape, pages, bytes, bytes, slots, 2), text);
    }
    const slots = new Int32Array([0, 1]);
    const { octavo_kv_append: append } = symbols;
    expectInvalid(append(shape, pages, x, x, slots, -1, null, null), "num_tokens must not be negative, found -1");
    expectInvalid(append(shape, null, x, x, slots, 2, null, null), "pages must not be NULL");
    expectInvalid(append(shape, pages, null, x, slots, 2, null, null), "k must not be NULL");
    expectInvalid(append(shape, pages, x, null, slots, 2, null, null), "v must not be NULL");
    expectInvalid(append(shape, pages, x, x, null, 2, null, null), "slot_mapping must not be NULL");
    const own = shapeOf("int8", 64, 16);
    expectInvalid(
      append(encodeShape(own), pages, x, x, slots, 2, new Float32Array(6).fill(1), null),
      "scales must be NULL: kv_dtype 6 has scales of its own",
    );
    const plain = encodeShape(shapeOf("int8_per_token_head", 64, 16));
    expectInvalid(
      append(plain, pages, x, x, slots, 2, null, new Float32Array(3 * 64)),
      "k_mean must be NULL for kv_dtype 7, which is not rotated",
    );
    expectInvalid(symbols.octavo_quantize(KV_DTYPE.int8, x, 64, 1, bytes), "kv_dtype of single values must be 0 to 4");
    const badScales = new Float32Array([1, 1, 1, 1, 0, 1]);
    expectInvalid(
      append(shape, pages, x, x, slots, 2, badScales, null),
      "v scale of kv head 1 must be finite and above 0",
    );
    assertEquals(append(shape, null, null, null, null, 0, null, null), STATUS.OK);
    assertSameBytes(pages, new Uint8Array(pages.length).fill(POISON), "pages");
  });
}
