/**
 * Element types of tensors: numbers and names in files, bytes of a block.
 *
 * @module
 */

import type { TensorDtype } from "./types.ts";

interface BlockShape {
  /** Elements of a block; rows are whole blocks. */
  readonly elements: number;
  readonly bytes: number;
}

/** Block of every dtype. Source: ggml's block structs (ggml-common.h). */
const blocks: Readonly<Record<TensorDtype, BlockShape>> = {
  F32: { elements: 1, bytes: 4 },
  F16: { elements: 1, bytes: 2 },
  BF16: { elements: 1, bytes: 2 },
  Q4_0: { elements: 32, bytes: 18 },
  Q4_1: { elements: 32, bytes: 20 },
  Q5_0: { elements: 32, bytes: 22 },
  Q5_1: { elements: 32, bytes: 24 },
  Q8_0: { elements: 32, bytes: 34 },
  Q2_K: { elements: 256, bytes: 84 },
  Q3_K: { elements: 256, bytes: 110 },
  Q4_K: { elements: 256, bytes: 144 },
  Q5_K: { elements: 256, bytes: 176 },
  Q6_K: { elements: 256, bytes: 210 },
  IQ4_NL: { elements: 32, bytes: 18 },
  IQ4_XS: { elements: 256, bytes: 136 },
  F8_E4M3: { elements: 1, bytes: 1 },
};

/** All dtypes that GGUF files have, for error messages. */
export const ggufDtypes: readonly TensorDtype[] = (Object.keys(blocks) as TensorDtype[]).filter((dtype) =>
  dtype !== "F8_E4M3"
);

/** GGUF's type numbers (ggml.h, `enum ggml_type`); those we cannot use are named for the error message. */
const ggmlNames: Readonly<Record<number, string>> = {
  0: "F32",
  1: "F16",
  2: "Q4_0",
  3: "Q4_1",
  6: "Q5_0",
  7: "Q5_1",
  8: "Q8_0",
  9: "Q8_1",
  10: "Q2_K",
  11: "Q3_K",
  12: "Q4_K",
  13: "Q5_K",
  14: "Q6_K",
  15: "Q8_K",
  16: "IQ2_XXS",
  17: "IQ2_XS",
  18: "IQ3_XXS",
  19: "IQ1_S",
  20: "IQ4_NL",
  21: "IQ3_S",
  22: "IQ2_S",
  23: "IQ4_XS",
  24: "I8",
  25: "I16",
  26: "I32",
  27: "I64",
  28: "F64",
  29: "IQ1_M",
  30: "BF16",
  34: "TQ1_0",
  35: "TQ2_0",
  39: "MXFP4",
};

/** The name of GGUF's type number, or the number itself. */
export function ggmlName(type: number): string {
  return ggmlNames[type] ?? String(type);
}

export function isTensorDtype(name: string): name is TensorDtype {
  return Object.hasOwn(blocks, name);
}

/** Elements of a block: a row's length must be a multiple of it. */
export function blockElements(dtype: TensorDtype): number {
  return blocks[dtype].elements;
}

/** Bytes of `count` elements, which are whole blocks. */
export function dtypeBytes(dtype: TensorDtype, count: number): number {
  return (count / blocks[dtype].elements) * blocks[dtype].bytes;
}
