/** Weight matrices against f64 products of independently decoded weights, on every code path this machine offers. */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { DTYPE, STATUS } from "../../ffi/enums.ts";
import { openEachIsa, openLibrary } from "./_library.ts";
import { decodeWeights, WEIGHT_FORMATS, type WeightFormat } from "./_weights.ts";

const SYMBOL = ["octavo_matmul"] as const;
const NUM_TOKENS = 33;

/** Numbers in [0, 1) from a seed (Mulberry32). */
function randomNumbers(seed: number): () => number {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), seed | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Scales worth testing, as f16: ordinary of both signs, zero, the smallest subnormal, large. */
function randomScale(random: () => number): number {
  const kind = random();
  if (kind < 0.1) return 0;
  if (kind < 0.15) return 2 ** -24;
  if (kind < 0.2) return 60000;
  return (random() - 0.5) * 0.1;
}

/** Any bytes are a valid block but for the f16 scales; the first rows have all bits clear and all bits set. */
function randomWeights(format: WeightFormat, rows: number, cols: number, random: () => number): Uint8Array {
  const blocksPerRow = cols / format.blockCols;
  const bytes = new Uint8Array(rows * blocksPerRow * format.blockBytes);
  for (let b = 0; b < rows * blocksPerRow; b++) {
    const offset = b * format.blockBytes;
    const row = Math.floor(b / blocksPerRow);
    const view = new DataView(bytes.buffer, offset, format.blockBytes);
    if (format.dtype === DTYPE.F32) view.setFloat32(0, random() - 0.5, true);
    else if (format.dtype === DTYPE.BF16) {
      view.setUint16(0, (random() < 0.5 ? 0x8000 : 0) + 0x3c00 + random() * 400, true);
    } else {
      for (let i = 0; i < format.blockBytes; i++) bytes[offset + i] = row === 0 ? 0 : row === 1 ? 255 : random() * 256;
      for (const half of format.halves) view.setFloat16(half, randomScale(random), true);
    }
  }
  return bytes;
}

/** Activations of very different sizes, blocks of zeros and single outliers. */
function randomActivations(tokens: number, cols: number, random: () => number): Float32Array {
  const x = new Float32Array(tokens * cols);
  for (let first = 0; first < x.length; first += 32) {
    const kind = random();
    const size = kind < 0.1 ? 0 : kind < 0.2 ? 1e-18 : kind < 0.3 ? 1e9 : 2;
    for (let i = first; i < Math.min(first + 32, x.length); i++) x[i] = (random() - 0.5) * size;
    if (random() < 0.2) x[first] = 1000 * size;
  }
  return x;
}

interface Product {
  readonly format: WeightFormat;
  readonly w: Uint8Array;
  readonly rows: number;
  readonly cols: number;
  readonly x: Float32Array;
}

function makeProduct(format: WeightFormat, rows: number, cols: number, seed: number): Product {
  const random = randomNumbers(seed);
  const w = randomWeights(format, rows, cols, random);
  return { format, w, rows, cols, x: randomActivations(NUM_TOKENS, cols, random) };
}

/** Runs the first `tokens` tokens from `firstToken` on. */
function multiply(
  library: ReturnType<typeof openLibrary<"octavo_matmul">>,
  { format, w, rows, cols, x }: Product,
  { firstToken = 0, tokens = NUM_TOKENS, threads = 2 } = {},
): Float32Array {
  // Poison: whatever is not written shows.
  const y = new Float32Array(tokens * rows).fill(NaN);
  const inputs = x.slice(firstToken * cols, (firstToken + tokens) * cols);
  library.check(library.symbols.octavo_matmul(format.dtype, w, w.length, rows, cols, inputs, tokens, y, threads));
  return y;
}

/**
 * Asserts that every y lies within the rounding that kernel.h allows: each activation half a step of its block's
 * largest / 32512, each f32 operation 2^-24 of what has been added so far.
 */
function assertProduct(y: Float32Array, { format, w, rows, cols, x }: Product): void {
  const { values, magnitudes } = decodeWeights(format, w);
  const blocks = format.blockCols > 1;
  const operations = blocks ? 4 * Math.ceil(cols / 16) : cols + 4;
  for (let token = 0; token < NUM_TOKENS; token++) {
    const step = new Float64Array(cols);
    for (let first = 0; first < cols && blocks; first += 32) {
      const block = x.subarray(token * cols + first, token * cols + first + 32);
      step.fill(Math.max(...block.map(Math.abs)) / 32512, first, first + 32);
    }
    for (let row = 0; row < rows; row++) {
      let exact = 0;
      let bound = 1e-30;
      for (let col = 0; col < cols; col++) {
        const activation = x[token * cols + col]!;
        exact += values[row * cols + col]! * activation;
        // 0.51: half a step, and the rounding of the step itself.
        const rounding = 0.51 * step[col]! * Math.abs(values[row * cols + col]!);
        bound += rounding + operations * 2 ** -24 * magnitudes[row * cols + col]! * (Math.abs(activation) + step[col]!);
      }
      const found = y[token * rows + row]!;
      assert(
        Math.abs(found - exact) <= bound,
        `token ${token} row ${row}: found ${found}, expected ${exact} +- ${bound}`,
      );
    }
  }
}

function colsOf(format: WeightFormat): number[] {
  if (format.blockCols === 1) return [1, 33, 576];
  return format.blockCols === 32 ? [32, 576] : [256, 768];
}

for (const [name, format] of Object.entries(WEIGHT_FORMATS)) {
  Deno.test(`octavo_matmul() multiplies ${name} weights within its rounding when rows do not fill a strip`, () => {
    const libraries = openEachIsa(SYMBOL);
    for (const cols of colsOf(format)) {
      for (const rows of [1, 37]) {
        const product = makeProduct(format, rows, cols, cols + rows);
        for (const library of libraries) assertProduct(multiply(library, product), product);
      }
    }
    for (const library of libraries) library.close();
  });

  Deno.test(`octavo_matmul() gives ${name} rows the same bits when batch and threads change`, () => {
    const product = makeProduct(format, 403, colsOf(format).at(-1)!, 7);
    for (const library of openEachIsa(SYMBOL)) {
      const whole = multiply(library, product, { threads: 1 });
      assertEquals(multiply(library, product, { threads: 2 }), whole, "2 threads");
      assertEquals(multiply(library, product, { threads: 3 }), whole, "3 threads");
      for (const [firstToken, tokens] of [[0, 1], [32, 1], [5, 2], [9, 3], [4, 5], [11, 16]] as const) {
        const part = multiply(library, product, { firstToken, tokens });
        const expected = whole.subarray(firstToken * product.rows, (firstToken + tokens) * product.rows);
        assertEquals(part, expected, `${library.isa}: ${tokens} tokens from ${firstToken}`);
      }
      library.close();
    }
  });
}

Deno.test("octavo_matmul() confines NaN and infinity to their token when activations are not finite", () => {
  for (const library of openEachIsa(SYMBOL)) {
    for (const format of Object.values(WEIGHT_FORMATS)) {
      const product = makeProduct(format, 17, 256, 3);
      const clean = multiply(library, product);
      product.x[2 * product.cols + 40] = NaN;
      product.x[4 * product.cols + 250] = -Infinity;
      const y = multiply(library, product);
      for (let token = 0; token < NUM_TOKENS; token++) {
        const row = y.subarray(token * product.rows, (token + 1) * product.rows);
        if (token === 2 || token === 4) assert(row.every((value) => !Number.isFinite(value)), `token ${token}`);
        else assertEquals(row, clean.subarray(token * product.rows, (token + 1) * product.rows));
      }
    }
    library.close();
  }
});

Deno.test("octavo_matmul() fails and writes nothing when an argument is wrong", () => {
  const library = openLibrary(SYMBOL);
  const y = new Float32Array(16).fill(5);
  const x = new Float32Array(64);
  const w = new Uint8Array(4096);
  const cases: [args: [number, number, number, number, number, number], status: number, message: string][] = [
    [[5, 512, 16, 32, 1, 1], STATUS.UNSUPPORTED, "weights of dtype 5 are not offered"],
    [[-1, 512, 16, 32, 1, 1], STATUS.UNSUPPORTED, "weights of dtype -1 are not offered"],
    [[DTYPE.Q4_1, 320, 16, 33, 1, 1], STATUS.INVALID_ARGUMENT, "a multiple of 32, found 33"],
    [[DTYPE.Q4_K, 144, 1, 64, 1, 1], STATUS.INVALID_ARGUMENT, "a multiple of 256, found 64"],
    [[DTYPE.Q4_1, 319, 16, 32, 1, 1], STATUS.INVALID_ARGUMENT, "must have 320 bytes, found 319"],
    [[DTYPE.Q4_1, NaN, 16, 32, 1, 1], STATUS.INVALID_ARGUMENT, "must have 320 bytes, found "],
    [[DTYPE.F32, 4, 2147483647, 2147483647, 1, 1], STATUS.INVALID_ARGUMENT, "bytes, found 4"],
    [[DTYPE.Q4_1, 0, 0, 32, 1, 1], STATUS.INVALID_ARGUMENT, "found 0, 32 and 1"],
    [[DTYPE.Q4_1, 320, 16, -32, 1, 1], STATUS.INVALID_ARGUMENT, "found 16, -32 and 1"],
    [[DTYPE.Q4_1, 320, 16, 32, -1, 1], STATUS.INVALID_ARGUMENT, "found 16, 32 and -1"],
    [[DTYPE.Q4_1, 320, 16, 32, 1, -1], STATUS.INVALID_ARGUMENT, "num_threads must be 0 to 1024, found -1"],
  ];
  for (const [[dtype, bytes, rows, cols, m, threads], status, message] of cases) {
    assertEquals(library.symbols.octavo_matmul(dtype, w, bytes, rows, cols, x, m, y, threads), status, message);
    assertStringIncludes(library.lastError(), message);
  }
  assertEquals(library.symbols.octavo_matmul(DTYPE.Q4_1, null, 320, 16, 32, x, 1, y, 1), STATUS.INVALID_ARGUMENT);
  assertStringIncludes(library.lastError(), "must not be NULL");
  assertEquals(y, new Float32Array(16).fill(5));
  assertEquals(library.symbols.octavo_matmul(DTYPE.Q4_1, w, 320, 16, 32, x, 0, y, 1), STATUS.OK, "no tokens");
  library.close();
});
