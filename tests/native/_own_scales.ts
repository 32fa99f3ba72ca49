/**
 * Rows of the KV formats that keep scales with the tokens, quantised and read back as octavo.h describes them.
 *
 * @module
 */
import { KV_DTYPE } from "../../ffi/enums.ts";
import { codeBytes, isInt4, type KvDtype, packedBytes, scalesOf } from "./_kv.ts";
import type { OpenLibrary } from "./_library.ts";

type Quantizer = Pick<OpenLibrary<"octavo_quantize">, "symbols" | "check">;
type Dequantizer = Pick<OpenLibrary<"octavo_dequantize">, "symbols" | "check">;

/** Whether K, V, q and the output are turned by Hadamard matrices. */
export function isRotated(kvDtype: KvDtype): boolean {
  return ["int8", "k8v4", "int4"].includes(kvDtype);
}

/** H x, block by block over the largest power of two that divides the length; round: after every operation. */
export function rotate(x: ArrayLike<number>, round: (x: number) => number = (y) => y): number[] {
  let y = Array.from(x);
  const block = y.length & -y.length;
  for (let distance = 1; distance < block; distance *= 2) {
    y = y.map((value, i) => round((i & distance) === 0 ? value + y[i + distance]! : y[i - distance]! - value));
  }
  const norm = round(1 / round(Math.sqrt(block)));
  return y.map((value) => round(value * norm));
}

/** Nearest integer, ties to even. */
function roundEven(x: number): number {
  const floor = Math.floor(x);
  const rest = x - floor;
  return rest > 0.5 || rest === 0.5 && floor % 2 !== 0 ? floor + 1 : floor;
}

/** x as an f16, no larger than its largest finite value. */
function roundToHalf(x: number): number {
  return new Float16Array([Math.min(x, 65504)])[0]!;
}

/** A row as `octavo_kv_pack` has it. The library only rounds single E4M3 values here. */
export function packRow(
  library: Quantizer,
  kvDtype: KvDtype,
  part: "k" | "v",
  row: Float32Array,
): Uint8Array<ArrayBuffer> {
  const headDim = row.length;
  const x = isRotated(kvDtype) ? rotate(row, Math.fround) : Array.from(row);
  const packed = new Uint8Array(packedBytes(kvDtype, headDim, part));
  const view = new DataView(packed.buffer);
  const scales = scalesOf(kvDtype, headDim, part);
  const dims = headDim / scales.count;
  const isFp8 = kvDtype === "fp8_per_token_head";
  const largestCode = isFp8 ? 448 : isInt4(kvDtype, part) ? 7 : 127;
  for (let index = 0; index < scales.count; index++) {
    const values = x.slice(index * dims, (index + 1) * dims);
    const magnitudes = values.map(Math.abs).filter((magnitude) => !(isFp8 && Number.isNaN(magnitude)));
    const largest = Math.min(Math.max(0, ...magnitudes), 3.4028234663852886e38);
    const exact = Math.fround(largest / largestCode);
    const scale = (scales.bytes === 2 ? roundToHalf(exact) : exact) || (Number.isNaN(largest) ? NaN : 1);
    const at = codeBytes(kvDtype, headDim, part) + index * scales.bytes;
    if (scales.bytes === 2) view.setFloat16(at, scale, true);
    else view.setFloat32(at, scale, true);
    packed.set(encode(library, values, scale, largestCode), index * dims * (largestCode === 7 ? 0.5 : 1));
  }
  return packed;
}

function encode(library: Quantizer, values: number[], scale: number, largestCode: number): Uint8Array | number[] {
  if (largestCode === 448) {
    const codes = new Uint8Array(values.length);
    const x = Float32Array.from(values);
    library.check(library.symbols.octavo_quantize(KV_DTYPE.fp8_e4m3, x, x.length, scale, codes));
    return codes;
  }
  const codes = values.map((value) => {
    const clamped = Math.min(largestCode, Math.max(-largestCode, Math.fround(value / scale)));
    return Number.isNaN(clamped) ? -largestCode : roundEven(clamped);
  });
  if (largestCode === 127) return codes;
  return codes.flatMap((code, i) => i % 2 === 0 ? [code + 8 | (codes[i + 1]! + 8) << 4] : []);
}

/** The values of a packed row; rotated formats': as they are stored. */
export function unpackRow(
  library: Dequantizer,
  kvDtype: KvDtype,
  part: "k" | "v",
  packed: Uint8Array<ArrayBuffer>,
  headDim: number,
): Float64Array {
  const view = new DataView(packed.buffer, packed.byteOffset);
  const codesEnd = codeBytes(kvDtype, headDim, part);
  const scales = scalesOf(kvDtype, headDim, part);
  const codes = decodeCodes(library, packed.slice(0, codesEnd), kvDtype, part);
  return Float64Array.from(codes, (code, dim) => {
    const at = codesEnd + Math.floor(dim / (headDim / scales.count)) * scales.bytes;
    return code * (scales.bytes === 2 ? view.getFloat16(at, true) : view.getFloat32(at, true));
  });
}

function decodeCodes(library: Dequantizer, codes: Uint8Array<ArrayBuffer>, kvDtype: KvDtype, part: "k" | "v") {
  if (isInt4(kvDtype, part)) return Array.from(codes).flatMap((byte) => [(byte & 15) - 8, (byte >> 4) - 8]);
  if (kvDtype !== "fp8_per_token_head") return new Int8Array(codes.buffer);
  const values = new Float32Array(codes.length);
  library.check(library.symbols.octavo_dequantize(KV_DTYPE.fp8_e4m3, codes, codes.length, 1, values));
  return values;
}
