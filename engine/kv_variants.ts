/**
 * Which KV caches to compare: from dtype names and files of scales to what an engine is opened with.
 *
 * @module
 */

import { basename } from "node:path";
import { kvScaleTable, readKvScaleFile } from "../models/kv_scales.ts";
import type { ModelFiles } from "../models/types.ts";
import { chooseKvCacheDtype, KV_CACHE_DTYPE_NAMES, type KvCacheDtypeName } from "./kv_cache_plan.ts";
import type { KvVariant } from "./kv_comparison.ts";
import { chooseKvScales, nativeKvScales } from "./kv_scales.ts";

/** What a variant is made from. */
export type KvVariantModel = Pick<ModelFiles, "config" | "kvCache">;

/**
 * A cache of one dtype in all layers, with the scales that `serve` would use.
 *
 * @param scalesFile As `--kv-scales`; its name becomes part of the variant's. Null = the checkpoint's scales, else 1.
 * @throws {RangeError} The dtype is not known or takes no scales, or the file does not have all of them.
 * @throws {ModelFileError} The file cannot be read.
 */
export function kvVariant(
  { config, kvCache }: KvVariantModel,
  name: KvCacheDtypeName,
  scalesFile: string | null = null,
): KvVariant {
  const { dtype } = chooseKvCacheDtype(name, config.dtype, kvCache.fp8AskedBy);
  const { layers } = chooseKvScales({
    checkpoint: kvCache,
    file: scalesFile === null ? null : kvScaleTable(readKvScaleFile(scalesFile), config, "file"),
    layerDtypes: config.layers.map(() => dtype),
    calculate: false,
    strict: scalesFile !== null,
  });
  return {
    name: scalesFile === null ? dtype : `${dtype} (${basename(scalesFile)})`,
    dtype,
    scales: nativeKvScales(layers, config.numKvHeads),
  };
}

/** Names of all dtypes that a model's cache can have on a device. */
export function possibleKvDtypes({ config, kvCache }: KvVariantModel, backend: string): KvCacheDtypeName[] {
  const hasScales = kvCache.scales.layers.some((layer) => layer !== null);
  return KV_CACHE_DTYPE_NAMES.filter((name) => {
    if (name === "auto" || name === "fp8") return false;
    if (name === "float32") return backend === "cpu";
    if (name === "k8v4" || name === "int4") return config.headDim % 32 === 0;
    return name !== "fp8_e5m2" || !hasScales;
  });
}
