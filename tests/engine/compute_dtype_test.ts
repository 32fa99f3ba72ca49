import { assertEquals } from "@std/assert";
import { computeDtype } from "../../engine/compute_dtype.ts";
import type { ModelConfig, TensorDtype, TensorSource } from "../../models/types.ts";

Deno.test("computeDtype() is F16 where a file's elements fit it and BF16 where they may not", () => {
  const config = (architecture: string, dtype = "bfloat16") => ({ architecture, dtype }) as ModelConfig;
  const matrices = (...dtypes: TensorDtype[]) =>
    [...dtypes.map((dtype) => ({ dtype, rows: 8, file: 0 })), { dtype: "F32", rows: 1, file: 0 }] as TensorSource[];
  assertEquals(computeDtype(config("llama"), matrices("BF16")), "BF16");
  assertEquals(computeDtype(config("llama"), matrices("F16")), "F16");
  assertEquals(computeDtype(config("llama"), matrices("Q4_K", "Q6_K")), "F16");
  assertEquals(computeDtype(config("llama"), matrices("Q4_K", "BF16")), "BF16");
  assertEquals(computeDtype(config("llama"), matrices("F8_E4M3", "F16")), "F16");
  assertEquals(computeDtype(config("llama"), matrices("F8_E4M3")), "BF16");
  assertEquals(computeDtype(config("llama"), matrices("F32")), "BF16");
  assertEquals(computeDtype(config("gemma3"), matrices("Q4_K")), "BF16");
  const madeUp = [{ dtype: "BF16", rows: 8, file: null }] as TensorSource[];
  assertEquals(computeDtype(config("llama", "float16"), madeUp), "F16");
  assertEquals(computeDtype(config("llama"), madeUp), "BF16");
});
