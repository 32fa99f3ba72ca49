/**
 * What a GPU computes in.
 *
 * @module
 */

import type { ModelConfig, TensorSource } from "../models/types.ts";

/**
 * The element type of activations and unquantised weights on a GPU: F16 where the file's own elements have more precision
 * than BF16's 8 bits but no more range than F16's (F16, and GGUF's block formats, whose scales are F16), else BF16.
 * Gemma's activations go beyond F16's range.
 */
export function computeDtype(config: ModelConfig, tensors: readonly TensorSource[]): "F16" | "BF16" {
  if (config.architecture.startsWith("gemma")) return "BF16";
  const matrices = tensors.filter(({ rows, file }) => rows > 1 && file !== null);
  if (matrices.length === 0) return config.dtype === "float16" ? "F16" : "BF16";
  const isNarrow = ({ dtype }: TensorSource) => dtype !== "F32" && dtype !== "BF16" && dtype !== "F8_E4M3";
  return matrices.some(isNarrow) && !matrices.some(({ dtype }) => dtype === "F32" || dtype === "BF16") ? "F16" : "BF16";
}
