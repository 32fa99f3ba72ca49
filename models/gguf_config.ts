/**
 * A model's settings from a GGUF file's metadata.
 *
 * Key names: the GGUF specification; what a missing key means: llama.cpp's `llama_model::load_hparams`.
 *
 * @module
 */

import { type Architecture, architectureOf, architectures } from "./architectures.ts";
import { limits, modelConfig, periodicWindows, stretchedLen } from "./config.ts";
import { Fields, type Range } from "./fields.ts";
import type { GgufHeader } from "./gguf.ts";
import { type RopeParameters, type RopeScaling, yarnAttnFactor } from "./rope.ts";
import type { ModelConfig } from "./types.ts";

/**
 * @throws {ModelFileError} When the architecture is not known, a setting is missing or out of its range.
 */
export function ggufConfig(header: GgufHeader): ModelConfig {
  const all = Fields.ofGguf(header);
  const name = all.string("general.architecture");
  const architecture = architectureOf(name);
  if (architecture === undefined || name === "mistral") {
    const known = Object.keys(architectures).filter((known) => known !== "mistral");
    return all.fail("general.architecture", `must be one of ${known.join(", ")}`, name);
  }
  const fields = all.under(`${name}.`);
  refuse(all, "split.count", 1, "files in several parts are not supported");
  refuse(fields, "expert_count", 0, "mixtures of experts are not supported");
  const numLayers = fields.integer("block_count", limits.layers);
  const hiddenSize = fields.integer("embedding_length", limits.hidden);
  const perLayer = (key: string, range: Range) => sameInAllLayers(fields, key, numLayers, range);
  const numQHeads = perLayer("attention.head_count", limits.heads) ??
    fields.fail("attention.head_count", "must be there");
  const headDim = fields.integerOr("attention.key_length", hiddenSize / numQHeads, limits.headDim);
  for (const key of ["attention.value_length", "rope.dimension_count"]) {
    const dim = fields.integerOr(key, headDim);
    if (dim !== headDim) fields.fail(key, `must be the head size ${headDim}`, dim);
  }
  const contextLen = fields.integer("context_length", limits.length);
  const rope = ropeParameters(fields, contextLen);
  const isGemma3 = name === "gemma3";
  return modelConfig({
    file: header.path,
    architecture,
    vocabSize: vocabSize(header, fields),
    hiddenSize,
    intermediateSize: perLayer("feed_forward_length", limits.intermediate) ??
      fields.fail("feed_forward_length", "must be there"),
    numQHeads,
    numKvHeads: perLayer("attention.head_count_kv", limits.heads) ?? numQHeads,
    headDim,
    // Gemma 3's context length is that after scaling.
    maxModelLen: isGemma3 ? contextLen : stretchedLen(contextLen, rope),
    rmsNormEps: fields.number("attention.layer_norm_rms_epsilon", limits.epsilon),
    // The converter has added Gemma's 1 already.
    normWeightOffset: 0,
    queryScalar: queryScalar(name, numLayers, hiddenSize / numQHeads, headDim),
    attnLogitSoftcap: fields.numberOr("attn_logit_softcapping", name === "gemma2" ? 50 : 0, limits.softcap),
    finalLogitSoftcap: fields.numberOr("final_logit_softcapping", name === "gemma2" ? 30 : 0, limits.softcap),
    windows: windows(fields, architecture, numLayers),
    rope: [rope, isGemma3 ? localRope(fields) : rope],
    dtype: weightDtype(header),
    fieldNames: { headDim: `${name}.attention.key_length`, numKvHeads: `${name}.attention.head_count_kv` },
  });
}

/** A count that may be given once or once a layer; null where it is not given. */
function sameInAllLayers(fields: Fields, key: string, numLayers: number, range: Range): number | null {
  if (!ArrayBuffer.isView(fields.get(key))) return fields.integerOr(key, null, range);
  const counts = Array.from(fields.numbersOr(key, numLayers) ?? []);
  if (counts.some((count) => count !== counts[0])) fields.fail(key, "must be the same in all layers", counts);
  const [count] = counts;
  const isSound = count !== undefined && Number.isInteger(count) && count >= range.min && count <= range.max;
  return isSound ? count : fields.fail(key, `must be integers from ${range.min} to ${range.max}`, count);
}

function refuse(fields: Fields, key: string, most: number, why: string): void {
  const count = fields.integerOr(key, 0, { min: 0, max: 2 ** 31 - 1 });
  if (count > most) fields.fail(key, `must be ${most}: ${why}`, count);
}

function vocabSize(header: GgufHeader, fields: Fields): number {
  const embedding = header.tensors.find((tensor) => tensor.name === "token_embd.weight");
  const rows = embedding?.dims[1];
  if (rows === undefined || rows > limits.vocab.max) {
    return Fields.ofGguf(header).fail(
      "tensor token_embd.weight",
      "must be a matrix of at most 2^24 rows",
      embedding?.dims,
    );
  }
  const said = fields.integerOr("vocab_size", rows);
  if (said !== rows) fields.fail("vocab_size", `must be the ${rows} rows of token_embd.weight`, said);
  return rows;
}

/** llama.cpp's `f_attention_scale`: the 27B Gemmas scale by hidden size / heads, known by their number of layers. */
function queryScalar(name: string, numLayers: number, hiddenPerHead: number, headDim: number): number {
  const is27b = (name === "gemma2" && numLayers === 46) || (name === "gemma3" && numLayers === 62);
  return is27b ? hiddenPerHead : headDim;
}

function windows(fields: Fields, architecture: Architecture, numLayers: number): number[] {
  const every = architecture.fullLayerEvery;
  const window = fields.integerOr("attention.sliding_window", architecture.name === "gemma2" ? 4096 : 0, {
    min: 0,
    max: limits.length.max,
  });
  return every > 0 ? periodicWindows(numLayers, every, window) : new Array<number>(numLayers).fill(window);
}

function ropeParameters(fields: Fields, contextLen: number): RopeParameters {
  const theta = fields.numberOr("rope.freq_base", 10_000, limits.theta);
  return { theta, scaling: ropeScaling(fields, contextLen) };
}

function ropeScaling(fields: Fields, contextLen: number): RopeScaling {
  const type = fields.stringOr("rope.scaling.type", fields.has("rope.scale_linear") ? "linear" : "none");
  if (type === "none") return { type: "default" };
  const factorKey = fields.firstOf("rope.scaling.factor", "rope.scale_linear") ?? "rope.scaling.factor";
  const factor = fields.numberOr(factorKey, 1, limits.factor);
  if (type === "linear") return { type, factor };
  if (type !== "yarn") return fields.fail("rope.scaling.type", "must be none, linear or yarn", type);
  return {
    type,
    factor,
    originalMaxLen: fields.integerOr("rope.scaling.original_context_length", contextLen, limits.length),
    attnFactor: fields.numberOr("rope.scaling.attn_factor", 1, limits.factor) * yarnAttnFactor(factor),
    betaFast: fields.numberOr("rope.scaling.yarn_beta_fast", 32, limits.scalar),
    betaSlow: fields.numberOr("rope.scaling.yarn_beta_slow", 1, limits.scalar),
    truncate: true,
  };
}

/** Gemma 3's layers with a window turn faster and are not stretched. */
function localRope(fields: Fields): RopeParameters {
  return { theta: fields.numberOr("rope.freq_base_swa", 10_000, limits.theta), scaling: { type: "default" } };
}

/** Quantised files do not say what they were made from: every family known here is published in bfloat16. */
function weightDtype(header: GgufHeader): ModelConfig["dtype"] {
  const matrices = header.tensors.filter((tensor) => tensor.dims.length > 1).map((tensor) => tensor.dtype);
  if (matrices.every((dtype) => dtype === "F32")) return "float32";
  return matrices.includes("F16") && matrices.every((dtype) => dtype === "F16" || dtype === "F32")
    ? "float16"
    : "bfloat16";
}
