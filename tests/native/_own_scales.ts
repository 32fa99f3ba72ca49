/**
 * Rows of the KV formats that keep scales with the tokens, quantised and read back as octavo.h describes them.
 *
 * @module
 */
import { KV_DTYPE } from "../../ffi/enums.ts";
import { type KvDtype, packedBytes } from "./_kv.ts";
import type { OpenLibrary } from "./_library.ts";

type Quantizer = Pick<OpenLibrary<"octavo_quantize">, "symbols" | "check">;
type Dequantizer = Pick<OpenLibrary<"octavo_dequantize">, "symbols" | "check">;

/** Whether K, V, q and the output are turned by Hadamard matrices. */
export function isRotated(kvDtype: KvDtype): boolean {
  return kvDtype === "int8";
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

/** A row as `octavo_kv_pack` has it. The library only rounds single E4M3 values here. */
export function packRow(library: Quantizer, kvDtype: KvDtype, row: Float32Array): Uint8Array<ArrayBuffer> {
  const x = isRotated(kvDtype) ? rotate(row, Math.fround) : Array.from(row);
  const isFp8 = kvDtype === "fp8_per_token_head";
  const magnitudes = x.map(Math.abs).filter((magnitude) => !(isFp8 && Number.isNaN(magnitude)));
  const largest = Math.min(Math.max(0, ...magnitudes), 3.4028234663852886e38);
  const scale = Math.fround(largest / (isFp8 ? 448 : 127)) || (Number.isNaN(largest) ? NaN : 1);
  const packed = new Uint8Array(packedBytes(kvDtype, row.length));
  new DataView(packed.buffer).setFloat32(row.length, scale, true);
  if (isFp8) {
    const codes = new Uint8Array(row.length);
    const values = Float32Array.from(x);
    library.check(library.symbols.octavo_quantize(KV_DTYPE.fp8_e4m3, values, row.length, scale, codes));
    packed.set(codes);
  } else {
    const codes = x.map((value) => roundEven(Math.min(127, Math.max(-127, Math.fround(value / scale)))));
    packed.set(codes.map((code) => Number.isNaN(code) ? -127 : code));
  }
  return packed;
}

/** The values of a packed row; rotated formats': as they are stored. */
export function unpackRow(library: Dequantizer, kvDtype: KvDtype, packed: Uint8Array<ArrayBuffer>): Float64Array {
  const headDim = packed.length - 4;
  const scale = new DataView(packed.buffer, packed.byteOffset).getFloat32(headDim, true);
  const codes = packed.slice(0, headDim);
  if (kvDtype !== "fp8_per_token_head") return Float64Array.from(new Int8Array(codes.buffer), (code) => code * scale);
  const values = new Float32Array(headDim);
  library.check(library.symbols.octavo_dequantize(KV_DTYPE.fp8_e4m3, codes, headDim, 1, values));
  return Float64Array.from(values, (value) => value * scale);
}
