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
import { chooseKvScales, nativeKMean, nativeKvScales } from "./kv_scales.ts";

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
  const { layers, means } = chooseKvScales({
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
    kMean: nativeKMean(means, config),
  };
}

/**
 * The caches that a file of scales is for: fp8_e4m3 where it has scales, the rotated ones where it has means of K.
 *
 * @throws As {@linkcode kvVariant}.
 */
export function fileVariants(model: KvVariantModel, scalesFile: string): KvVariant[] {
  const { layers, means } = kvScaleTable(readKvScaleFile(scalesFile), model.config, "file");
  const hasMeans = means.some((mean) => mean !== null);
  // A file that has neither is worth an error, which fp8_e4m3's variant gives.
  const hasScales = !hasMeans || layers.some((layer) => layer !== null);
  const rotated = (["int8", "k8v4", "int4"] as const).filter((name) => name === "int8" || takesInt4(model.config));
  return [...hasScales ? ["fp8_e4m3" as const] : [], ...hasMeans ? rotated : []]
    .map((name) => kvVariant(model, name, scalesFile));
}

/** Names of all dtypes that a model's cache can have on a device. */
export function possibleKvDtypes({ config, kvCache }: KvVariantModel, backend: string): KvCacheDtypeName[] {
  const hasScales = kvCache.scales.layers.some((layer) => layer !== null);
  return KV_CACHE_DTYPE_NAMES.filter((name) => {
    if (name === "auto" || name === "fp8") return false;
    if (name === "float32") return backend === "cpu";
    if (name === "k8v4" || name === "int4") return takesInt4(config);
    return name !== "fp8_e5m2" || !hasScales;
  });
}

/** 4-bit values share a scale by 32. */
function takesInt4({ headDim }: KvVariantModel["config"]): boolean {
  return headDim % 32 === 0;
}
