import { assertEquals, assertStringIncludes } from "@std/assert";
import { KV_DTYPE, STATUS } from "../../ffi/enums.ts";
import { openEachIsa } from "./_library.ts";

const { float32: FLOAT32, float16: FLOAT16, bfloat16: BFLOAT16, fp8_e4m3: E4M3, fp8_e5m2: E5M2 } = KV_DTYPE;
/** The scale of the `_div` and `_ties` data: its reciprocal rounds, so that multiplying by it gives other codes. */
const DIV_SCALE = 41 / 1024;

const LIBRARIES = openEachIsa(["octavo_quantize", "octavo_dequantize"], ["portable", "avx2", "avx512"]);

function readData(name: string): Uint8Array<ArrayBuffer> {
  return Deno.readFileSync(new URL(`../data/fp8/${name}`, import.meta.url));
}

function readFloats(name: string): Float32Array<ArrayBuffer> {
  return new Float32Array(readData(name).buffer);
}

/** All bf16 codes as floats. */
function allBfloat16(): Float32Array<ArrayBuffer> {
  return new Float32Array(Uint32Array.from({ length: 65536 }, (_, code) => code << 16).buffer);
}

function bytesOf(kvDtype: number, n: number): number {
  return kvDtype === FLOAT32 ? 4 * n : kvDtype <= BFLOAT16 ? 2 * n : n;
}

type Library = (typeof LIBRARIES)[number];

function quantize(library: Library, kvDtype: number, x: Float32Array<ArrayBuffer>, scale: number) {
  const stored = new Uint8Array(bytesOf(kvDtype, x.length));
  library.check(library.symbols.octavo_quantize(kvDtype, x, x.length, scale, stored));
  return stored;
}

function dequantize(library: Library, kvDtype: number, stored: Uint8Array<ArrayBuffer>, scale: number) {
  const x = new Float32Array(stored.length / bytesOf(kvDtype, 1));
  library.check(library.symbols.octavo_dequantize(kvDtype, stored, x.length, scale, x));
  return x;
}

/** Compares long arrays without printing them: names the first difference. */
function assertSame(found: ArrayLike<number>, expected: ArrayLike<number>, what: string) {
  assertEquals(found.length, expected.length, what);
  for (let i = 0; i < found.length; i++) {
    if (!Object.is(found[i], expected[i])) {
      throw new Error(`${what}: expected ${expected[i]} at ${i}, found ${found[i]}`);
    }
  }
}

for (const library of LIBRARIES) {
  for (const [format, kvDtype] of [["e4m3fn", E4M3], ["e5m2", E5M2]] as const) {
    Deno.test(`octavo_dequantize() decodes all 256 codes of ${format} (${library.isa})`, () => {
      const codes = Uint8Array.from({ length: 256 }, (_, code) => code);
      const table = readFloats(`${format}_decode.f32le`);
      assertSame(dequantize(library, kvDtype, codes, 1), table, "scale 1");
      assertSame(dequantize(library, kvDtype, codes, 0.375), table.map((x) => x * 0.375), "scale 0.375");
    });

    Deno.test(`octavo_quantize() encodes all bf16 values to ${format} (${library.isa})`, () => {
      assertSame(quantize(library, kvDtype, allBfloat16(), 1), readData(`${format}_encode_bf16.u8`), "scale 1");
      const divided = quantize(library, kvDtype, allBfloat16(), DIV_SCALE);
      assertSame(divided, readData(`${format}_encode_bf16_div.u8`), "scale 41/1024");
    });

    Deno.test(`octavo_quantize() divides near the midpoints of ${format} (${library.isa})`, () => {
      const ties = readFloats(`${format}_ties_x.f32le`);
      const expected = readData(`${format}_ties_div.u8`);
      assertSame(quantize(library, kvDtype, ties, DIV_SCALE), expected, "all at once");
      // Every length of a vector loop's tail gives the same codes.
      for (let n = 0; n <= 67; n++) {
        assertSame(
          quantize(library, kvDtype, ties.slice(n, 2 * n), DIV_SCALE),
          expected.slice(n, 2 * n),
          `${n} values`,
        );
      }
    });
  }

  Deno.test(`octavo_quantize() keeps every bfloat16 and saturates infinity (${library.isa})`, () => {
    const codes = new Uint16Array(quantize(library, BFLOAT16, allBfloat16(), 1).buffer);
    const expected = Uint16Array.from({ length: 65536 }, (_, code) => {
      const magnitude = code & 0x7fff;
      return (code & 0x8000) | (magnitude === 0x7f80 ? 0x7f7f : magnitude > 0x7f80 ? 0x7fc0 : magnitude);
    });
    assertSame(codes, expected, "codes");
  });

  Deno.test(`octavo_quantize() rounds to bfloat16 once, to nearest even (${library.isa})`, () => {
    const bits = [0x3f808000, 0x3f818000, 0x3f808001, 0x3f817fff, 0x00008000, 0x00018000, 0x7f7fffff, 0xff7f8000];
    const rounded = [0x3f80, 0x3f82, 0x3f81, 0x3f81, 0x0000, 0x0002, 0x7f7f, 0xff7f];
    const x = new Float32Array(Uint32Array.from(bits).buffer);
    assertSame(new Uint16Array(quantize(library, BFLOAT16, x, 1).buffer), rounded, "codes");
  });

  Deno.test(`octavo_quantize() agrees with Float16Array but saturates (${library.isa})`, () => {
    // All float16 values, their midpoints and both neighbours of each midpoint.
    const halves = new Float16Array(Uint16Array.from({ length: 0x7c00 }, (_, code) => code).buffer);
    const bits: number[] = [];
    const view = new DataView(new ArrayBuffer(4));
    for (let i = 0; i + 1 < halves.length; i++) {
      view.setFloat32(0, (halves[i]! + halves[i + 1]!) / 2);
      const middle = view.getUint32(0);
      bits.push(middle - 1, middle, (middle + 1) | 0x80000000);
    }
    const x = new Float32Array(Uint32Array.from([...bits, 0x477ff000, 0x7f800000, 0xff800000, 0x47800000]).buffer);
    const expected = new Float16Array(x).map((value) =>
      value === Infinity ? 65504 : value === -Infinity ? -65504 : value
    );
    assertSame(new Float16Array(quantize(library, FLOAT16, x, 1).buffer), expected, "codes");
    assertSame(quantize(library, FLOAT16, new Float32Array([NaN]), 1), [0x00, 0x7e], "NaN");
  });

  Deno.test(`octavo_dequantize() decodes all float16, bfloat16 and float32 values (${library.isa})`, () => {
    const codes = Uint16Array.from({ length: 65536 }, (_, code) => code);
    const stored = new Uint8Array(codes.buffer);
    assertSame(dequantize(library, FLOAT16, stored, 1), Float32Array.from(new Float16Array(codes.buffer)), "float16");
    assertSame(dequantize(library, BFLOAT16, stored, 1), allBfloat16(), "bfloat16");
    const x = new Float32Array([0, -0, 1.5, -3e38, 1e-45, Infinity, NaN]);
    assertSame(quantize(library, FLOAT32, x, 1), new Uint8Array(x.buffer), "float32 stored");
    assertSame(dequantize(library, FLOAT32, new Uint8Array(x.buffer), 0.5), x.map((value) => value * 0.5), "float32");
  });

  Deno.test(`octavo_quantize() rejects what is out of range (${library.isa})`, () => {
    const x = new Float32Array(8);
    const stored = new Uint8Array(8);
    const { octavo_quantize, octavo_dequantize } = library.symbols;
    const expectInvalid = (status: number, text: string) => {
      assertEquals(status, STATUS.INVALID_ARGUMENT);
      assertStringIncludes(library.lastError(), text);
    };
    expectInvalid(octavo_quantize(5, x, 8, 1, stored), "kv_dtype of single values must be 0 to 4, found 5");
    expectInvalid(octavo_quantize(E4M3, x, -1, 1, stored), "n must not be negative, found -1");
    expectInvalid(octavo_quantize(E4M3, x, 8, 0, stored), "scale must be finite and above 0, found 0");
    expectInvalid(octavo_quantize(E4M3, x, 8, NaN, stored), "scale must be finite and above 0, found nan");
    expectInvalid(octavo_quantize(E4M3, null, 8, 1, stored), "x must not be NULL");
    expectInvalid(octavo_dequantize(-1, stored, 8, 1, x), "found -1");
    expectInvalid(octavo_dequantize(E5M2, stored, 8, Infinity, x), "found inf");
    expectInvalid(octavo_dequantize(E5M2, stored, 8, 1, null), "x must not be NULL");
    assertEquals(octavo_quantize(E4M3, null, 0, 1, null), 0);
  });
}
