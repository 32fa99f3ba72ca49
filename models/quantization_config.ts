/**
 * Tells checkpoints whose weights are quantised in a way that is read (FP8 with a scale a matrix or a row) from those
 * that are not, and from those that only bring KV-cache scales.
 *
 * @module
 */

import { join } from "node:path";
import { Fields, isRecord } from "./fields.ts";
import { readRecordOrNull } from "./json_file.ts";

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
    case "quark":
      return checkQuark(fields);
    default: {
      const problem = "is not supported: weights must be stored in F32, F16, BF16 or FP8 (compressed-tensors, fp8, " +
        "fbgemm_fp8, modelopt, quark); others are read from GGUF files";
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

/** Weights of all layers are plain, or E4M3 with one scale a matrix or a row. */
function checkQuark(fields: Fields): void {
  const global = fields.objectOr("global_quant_config");
  const weight = global?.objectOr("weight") ?? null;
  if (weight === null) return;
  const [dtype, scheme] = [weight.stringOr("dtype", ""), weight.stringOr("qscheme", "")];
  if (dtype === "fp8_e4m3" && (scheme === "per_tensor" || scheme === "per_channel")) return;
  weight.fail("dtype", "is not supported: expected fp8_e4m3 with qscheme per_tensor or per_channel", {
    dtype,
    qscheme: scheme,
  });
}

/**
 * What in a folder asks for a KV cache in E4M3, or null: compressed-tensors' `kv_cache_scheme` (AutoFP8's too), ModelOpt's
 * `kv_cache_quant_algo` in config.json or hf_quant_config.json, Quark's `kv_cache_group` or output_tensors of k_proj.
 *
 * @param record Content of config.json.
 */
export function fp8KvCacheAskedBy(folder: string, record: Readonly<Record<string, unknown>>): string | null {
  const path = join(folder, "config.json");
  const outer = Fields.ofRecord(path, record);
  const key = outer.firstOf("quantization_config", "compression_config");
  const fields = key === undefined ? null : outer.objectOr(key);
  const asked = fields === null ? null : keyAskingForFp8(fields);
  if (asked !== null) return `config.json's ${asked}`;
  // What stands in config.json goes before the file beside it.
  if (fields !== null && kvKeys.some((name) => (fields.objectOr("quantization") ?? fields).has(name))) return null;
  const besidePath = join(folder, "hf_quant_config.json");
  const beside = readRecordOrNull(besidePath);
  const besideKey = beside === null ? null : keyAskingForFp8(Fields.ofRecord(besidePath, beside));
  return besideKey === null ? null : `hf_quant_config.json's ${besideKey}`;
}

const kvKeys = ["kv_cache_scheme", "kv_cache_quant_algo"];

function keyAskingForFp8(fields: Fields): string | null {
  const inner = fields.objectOr("quantization") ?? fields;
  const scheme = inner.get("kv_cache_scheme") ?? null;
  if (scheme === "static" || isFp8Scheme(scheme)) return "kv_cache_scheme";
  if (inner.get("kv_cache_quant_algo") === "FP8") return "kv_cache_quant_algo";
  const group = fields.objectOr("export")?.get("kv_cache_group");
  if (Array.isArray(group) && group.length > 0) return "kv_cache_group";
  const layers = fields.objectOr("layer_quant_config");
  const outputs = layers?.objectOr("*k_proj")?.get("output_tensors");
  return isRecord(outputs) && outputs["dtype"] === "fp8_e4m3" ? "layer_quant_config" : null;
}

/** Dynamic schemes have no scales to read, and integers are another format. */
function isFp8Scheme(scheme: unknown): boolean {
  if (!isRecord(scheme)) return false;
  const { num_bits: bits, type, dynamic = false, symmetric = true, strategy = "tensor" } = scheme;
  return bits === 8 && type === "float" && !dynamic && symmetric === true &&
    (strategy === "tensor" || strategy === "attn_head");
}
