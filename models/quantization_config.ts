/**
 * Tells checkpoints whose weights are quantised, which are not supported, from those that only bring KV-cache scales.
 *
 * @module
 */

import { Fields, isRecord } from "./fields.ts";

/**
 * @param record Content of config.json.
 * @throws {ModelFileError} When the weights are quantised, naming the method.
 */
export function refuseQuantizedWeights(file: string, record: Readonly<Record<string, unknown>>): void {
  const outer = Fields.ofRecord(file, record);
  const key = outer.firstOf("quantization_config", "compression_config");
  const fields = key === undefined ? null : outer.objectOr(key);
  if (fields === null) return;
  const method = fields.stringOr("quant_method", "");
  const isPlain = method === "compressed-tensors"
    ? !hasWeightGroup(fields)
    : method === "modelopt" && !hasAlgorithm(fields);
  if (isPlain) return;
  const problem =
    "is not supported: weights must be stored in F32, F16 or BF16 (quantised ones are read from GGUF files)";
  fields.fail("quant_method", problem, method);
}

/** compressed-tensors: a config group with weights. Without one only activations or the KV cache have scales. */
function hasWeightGroup(fields: Fields): boolean {
  const groups = fields.get("config_groups") ?? {};
  if (!isRecord(groups)) return fields.fail("config_groups", "must be an object", groups);
  return Object.values(groups).some((group) => !isRecord(group) || (group["weights"] ?? null) !== null);
}

/** ModelOpt: an algorithm for weights; `kv_cache_quant_algo` stands apart. */
function hasAlgorithm(fields: Fields): boolean {
  const inner = fields.objectOr("quantization") ?? fields;
  return inner.has("quant_algo");
}
