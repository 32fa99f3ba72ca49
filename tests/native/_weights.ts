/**
 * The weight formats of GGUF files, decoded in f64 from their definitions: the reference for the matrix kernels.
 *
 * @module
 */
import { DTYPE } from "../../ffi/enums.ts";

/** A decoded matrix. */
export interface Weights {
  /** `rows * cols` weights. */
  readonly values: Float64Array;
  /** What each weight is the sum of, in absolute values: |scale * quant| + |minimum|. */
  readonly magnitudes: Float64Array;
}

/** Called for each weight of a block: its column, scale * quant, and its minimum (0 without). */
type Emit = (col: number, product: number, minimum: number) => void;

/** One format: the shape of its blocks and how to read one. */
export interface WeightFormat {
  readonly dtype: number;
  readonly blockCols: number;
  readonly blockBytes: number;
  /** Offsets of the f16 fields of a block; the other bytes may have any value. */
  readonly halves: readonly number[];
  readonly decode: (block: DataView, emit: Emit) => void;
}

/** The 16 values of the IQ4 formats. */
const IQ4 = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/** `count` bits of the little-endian number in `block` from bit `first` of the byte at `offset`. */
function bits(block: DataView, offset: number, first: number, count: number): number {
  let value = 0;
  for (let i = 0; i < count; i++) {
    const bit = first + i;
    value += ((block.getUint8(offset + Math.floor(bit / 8)) >> (bit % 8)) & 1) * 2 ** i;
  }
  return value;
}

/** Nibble of column `col` among 32 in 16 bytes: the first 16 columns are low nibbles, the others high ones. */
function nibble(block: DataView, offset: number, col: number): number {
  return bits(block, offset + (col % 16), col < 16 ? 0 : 4, 4);
}

/** 32 columns: d, optionally a minimum, optionally fifth bits, nibbles. `quant` maps a number to its value. */
function smallBlocks(fifth: boolean, minimum: boolean, quant: (u: number) => number): WeightFormat["decode"] {
  return (block, emit) => {
    const d = block.getFloat16(0, true);
    const m = minimum ? block.getFloat16(2, true) : 0;
    const fifthOffset = minimum ? 4 : 2;
    const offset = fifthOffset + (fifth ? 4 : 0);
    for (let col = 0; col < 32; col++) {
      const high = fifth ? bits(block, fifthOffset, col, 1) : 0;
      emit(col, d * quant(nibble(block, offset, col) + 16 * high), m);
    }
  };
}

/** The two bits of column `col` of 256 in 64 bytes: 128 columns share 32 bytes, 32 columns each bit pair. */
function pair(block: DataView, offset: number, col: number): number {
  const half = Math.floor(col / 128);
  return bits(block, offset + 32 * half + (col % 32), 2 * (Math.floor(col / 32) % 4), 2);
}

/** The scale and minimum of 32 columns of Q4_K and Q5_K, 6 bits each, out of 12 bytes. */
function sixBitScales(block: DataView, offset: number, index: number): [scale: number, minimum: number] {
  if (index < 4) return [bits(block, offset + index, 0, 6), bits(block, offset + index + 4, 0, 6)];
  return [
    bits(block, offset + index + 4, 0, 4) + 16 * bits(block, offset + index - 4, 6, 2),
    bits(block, offset + index + 4, 4, 4) + 16 * bits(block, offset + index, 6, 2),
  ];
}

/** Q4_K and Q5_K: d, dmin, scales, optionally fifth bits, nibbles of 64 columns in 32 bytes. */
function nibbleSuperBlocks(fifth: boolean): WeightFormat["decode"] {
  return (block, emit) => {
    const d = block.getFloat16(0, true);
    const dmin = block.getFloat16(2, true);
    const nibbles = fifth ? 48 : 16;
    for (let col = 0; col < 256; col++) {
      const group = Math.floor(col / 32);
      const [scale, minimum] = sixBitScales(block, 4, group);
      const low = bits(block, nibbles + 32 * Math.floor(col / 64) + (col % 32), 4 * (group % 2), 4);
      const high = fifth ? bits(block, 16 + (col % 32), group, 1) : 0;
      emit(col, d * scale * (low + 16 * high), -dmin * minimum);
    }
  };
}

function decodeQ2K(block: DataView, emit: Emit): void {
  const d = block.getFloat16(80, true);
  const dmin = block.getFloat16(82, true);
  for (let col = 0; col < 256; col++) {
    const group = Math.floor(col / 16);
    emit(col, d * bits(block, group, 0, 4) * pair(block, 16, col), -dmin * bits(block, group, 4, 4));
  }
}

function decodeQ3K(block: DataView, emit: Emit): void {
  const d = block.getFloat16(108, true);
  for (let col = 0; col < 256; col++) {
    const group = Math.floor(col / 16);
    // 12 bytes: low nibbles of scales 0-7 and (high halves) 8-15, then 2 bits of scales g, g + 4, g + 8, g + 12.
    const low = bits(block, 96 + (group % 8), group < 8 ? 0 : 4, 4);
    const high = bits(block, 104 + (group % 4), 2 * Math.floor(group / 4), 2);
    const third = bits(block, col % 32, Math.floor(col / 32), 1);
    emit(col, d * (low + 16 * high - 32) * (pair(block, 32, col) + 4 * third - 4), 0);
  }
}

function decodeQ6K(block: DataView, emit: Emit): void {
  const d = block.getFloat16(208, true);
  for (let col = 0; col < 256; col++) {
    const half = Math.floor(col / 128);
    const low = bits(block, 64 * half + (col % 64), col % 128 < 64 ? 0 : 4, 4);
    const high = pair(block, 128, col);
    emit(col, d * block.getInt8(192 + Math.floor(col / 16)) * (low + 16 * high - 32), 0);
  }
}

function decodeIq4Xs(block: DataView, emit: Emit): void {
  const d = block.getFloat16(0, true);
  for (let col = 0; col < 256; col++) {
    const group = Math.floor(col / 32);
    const scale = bits(block, 4, 4 * group, 4) + 16 * bits(block, 2, 2 * group, 2) - 32;
    emit(col, d * scale * IQ4[nibble(block, 8 + 16 * group, col % 32)]!, 0);
  }
}

function decodeQ80(block: DataView, emit: Emit): void {
  for (let col = 0; col < 32; col++) emit(col, block.getFloat16(0, true) * block.getInt8(2 + col), 0);
}

/** Every format the library offers, by name. */
export const WEIGHT_FORMATS: Readonly<Record<string, WeightFormat>> = {
  F32: format("F32", 1, 4, [], (block, emit) => emit(0, block.getFloat32(0, true), 0)),
  F16: format("F16", 1, 2, [0], (block, emit) => emit(0, block.getFloat16(0, true), 0)),
  BF16: format("BF16", 1, 2, [], (block, emit) => emit(0, bfloat16(block.getUint16(0, true)), 0)),
  Q4_0: format("Q4_0", 32, 18, [0], smallBlocks(false, false, (u) => u - 8)),
  Q4_1: format("Q4_1", 32, 20, [0, 2], smallBlocks(false, true, (u) => u)),
  Q5_0: format("Q5_0", 32, 22, [0], smallBlocks(true, false, (u) => u - 16)),
  Q5_1: format("Q5_1", 32, 24, [0, 2], smallBlocks(true, true, (u) => u)),
  Q8_0: format("Q8_0", 32, 34, [0], decodeQ80),
  Q2_K: format("Q2_K", 256, 84, [80, 82], decodeQ2K),
  Q3_K: format("Q3_K", 256, 110, [108], decodeQ3K),
  Q4_K: format("Q4_K", 256, 144, [0, 2], nibbleSuperBlocks(false)),
  Q5_K: format("Q5_K", 256, 176, [0, 2], nibbleSuperBlocks(true)),
  Q6_K: format("Q6_K", 256, 210, [208], decodeQ6K),
  IQ4_NL: format("IQ4_NL", 32, 18, [0], smallBlocks(false, false, (u) => IQ4[u]!)),
  IQ4_XS: format("IQ4_XS", 256, 136, [0], decodeIq4Xs),
};

function format(
  name: keyof typeof DTYPE,
  blockCols: number,
  blockBytes: number,
  halves: readonly number[],
  decode: WeightFormat["decode"],
): WeightFormat {
  return { dtype: DTYPE[name], blockCols, blockBytes, halves, decode };
}

function bfloat16(bits: number): number {
  const view = new DataView(new ArrayBuffer(4));
  view.setUint16(2, bits, true);
  return view.getFloat32(0, true);
}

/** Decodes a whole matrix (or any run of blocks). */
export function decodeWeights(format: WeightFormat, bytes: Uint8Array): Weights {
  const numBlocks = bytes.length / format.blockBytes;
  const values = new Float64Array(numBlocks * format.blockCols);
  const magnitudes = new Float64Array(values.length);
  for (let b = 0; b < numBlocks; b++) {
    const block = new DataView(bytes.buffer, bytes.byteOffset + b * format.blockBytes, format.blockBytes);
    format.decode(block, (col, product, minimum) => {
      values[b * format.blockCols + col] = product + minimum;
      magnitudes[b * format.blockCols + col] = Math.abs(product) + Math.abs(minimum);
    });
  }
  return { values, magnitudes };
}

/** `count` random weights of about the size `scale`, as stored, and their exact values rounded to f32. */
export function randomBlocks(
  format: WeightFormat,
  options: { count: number; scale: number; random: () => number },
): { stored: Uint8Array<ArrayBuffer>; values: Float32Array<ArrayBuffer> } {
  const { count, scale, random } = options;
  const stored = new Uint8Array(count / format.blockCols * format.blockBytes).map(() => random() * 256);
  const setHalves = (half: () => number) => {
    for (let at = 0; at < stored.length; at += format.blockBytes) {
      const block = new DataView(stored.buffer, at, format.blockBytes);
      for (const offset of format.halves) block.setFloat16(offset, half(), true);
    }
  };
  setHalves(() => 1);
  const { values: whole } = decodeWeights(format, stored);
  const size = scale / Math.sqrt(whole.reduce((sum, value) => sum + value * value, 0) / count);
  setHalves(() => size * (random() < 0.5 ? -1 : 1) * (0.5 + random()));
  return { stored, values: Float32Array.from(decodeWeights(format, stored).values) };
}
