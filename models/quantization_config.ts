/**
 * Tells checkpoints whose weights are quantised in a way that is read (FP8 with a scale a matrix or a row) from those
 * that are not, and from those that only bring KV-cache scales.
 *
 * @module
 */

import { Fields, isRecord } from "./fields.ts";

/**
 * @param record Content of config.json.
 * @throws {ModelFileError} When the weights are quantised in another way, naming what it is.
 */
export function checkWeightQuantization(file: string, record: Readonly<Record<string, unknown>>): void {
  const outer = Fields.ofRecord(file, record);
  const key = outer.firstOf("quantization_config", "compression_config");
  const fields = key === undefined ? null : outer.objectOr(key);
  if (fields === null) return;
  const method = fields.stringOr("quant_method", "");
  switch (method) {
    case "compressed-tensors":
      return checkCompressedTensors(fields);
    case "modelopt": {
      const inner = fields.objectOr("quantization") ?? fields;
      // An algorithm for weights; `kv_cache_quant_algo` stands apart.
      const algorithm = inner.stringOr("quant_algo", "FP8");
      return algorithm === "FP8" ? undefined : inner.fail("quant_algo", "must be FP8", algorithm);
    }
    case "fp8":
      if (fields.has("weight_block_size")) {
        fields.fail("weight_block_size", "is not supported: weights must have one scale, or one a row");
      }
      return;
    case "fbgemm_fp8":
      return;
    default: {
      const problem = "is not supported: weights must be stored in F32, F16, BF16 or FP8 (compressed-tensors, fp8, " +
        "fbgemm_fp8, modelopt); others are read from GGUF files";
      return fields.fail("quant_method", problem, method);
    }
  }
}

/** Without a config group that has weights only activations or the KV cache have scales. */
function checkCompressedTensors(fields: Fields): void {
  const groups = fields.get("config_groups") ?? {};
  if (!isRecord(groups)) return fields.fail("config_groups", "must be an object", groups);
  for (const [name, group] of Object.entries(groups)) {
    const key = `config_groups.${name}`;
    if (!isRecord(group)) return fields.fail(key, "must be an object", group);
    const weights = group["weights"] ?? null;
    if (weights === null) continue;
    if (!isRecord(weights)) return fields.fail(`${key}.weights`, "must be an object", weights);
    const { num_bits: bits, type, strategy, symmetric = true } = weights;
    const isRead = bits === 8 && type === "float" && (strategy === "tensor" || strategy === "channel") && symmetric;
    if (!isRead) {
      const problem = "is not supported: expected FP8 (num_bits 8, type float, strategy tensor or channel)";
      fields.fail(`${key}.weights`, problem, { num_bits: bits, type, strategy });
    }
  }
}
