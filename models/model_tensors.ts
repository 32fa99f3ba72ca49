/**
 * From a file's tensors to the engine's: which of them a model needs and the shape each must have.
 *
 * @module
 */

import type { Architecture } from "./architectures.ts";
import { ModelFileError } from "./errors.ts";
import { dtypeBytes } from "./tensor_dtype.ts";
import type { ModelConfig, ScaleSource, TensorDtype, TensorRole, TensorSource } from "./types.ts";

/** A tensor as a file's header describes it. */
export interface FileTensor {
  readonly name: string;
  /** Slowest first: `[rows, cols]` of a matrix. */
  readonly shape: readonly number[];
  readonly dtype: TensorDtype;
  /** Index into the model's paths. */
  readonly file: number;
  readonly offsetBytes: number;
  readonly sizeBytes: number;
  /** F8_E4M3 only. */
  readonly scales?: ScaleSource;
}

/** What a tensor's name says. Layer -1: outside the layers. */
export interface TensorPlace {
  readonly role: TensorRole;
  readonly layer: number;
}

export interface TensorMapping {
  readonly config: ModelConfig;
  readonly architecture: Architecture;
  readonly paths: readonly string[];
  /** Null: known and not needed; undefined: not known. */
  readonly placeOf: (name: string) => TensorPlace | null | undefined;
  /** Rows of q and k lie with RoPE's pairs side by side. */
  readonly isInterleaved: boolean;
  /** An output matrix of its own must be there. */
  readonly needsLmHead: boolean;
}

const neededRoles: readonly TensorRole[] = ["token_embedding", "output_norm"];
const neededPerLayer: readonly TensorRole[] = [
  "attn_norm",
  "q_proj",
  "k_proj",
  "v_proj",
  "o_proj",
  "ffn_norm",
  "gate_proj",
  "up_proj",
  "down_proj",
];
const optionalRoles: readonly TensorRole[] = ["lm_head", "rope_factors", "q_bias", "k_bias", "v_bias", "o_bias"];
const vectorDtypes: readonly TensorDtype[] = ["F32", "F16", "BF16"];

/**
 * Gives each tensor its role and checks that the model has all it needs, each once and in its shape.
 *
 * @throws {ModelFileError} Naming the tensor.
 */
export function mapTensors(tensors: readonly FileTensor[], mapping: TensorMapping): TensorSource[] {
  const sources: TensorSource[] = [];
  const seen = new Set<string>();
  const known = new Set([...neededRoles, ...layerRoles(mapping.architecture), ...optionalRoles]);
  for (const tensor of tensors) {
    const place = mapping.placeOf(tensor.name);
    if (place === null) continue;
    const path = mapping.paths[tensor.file]!;
    const field = `tensor ${tensor.name}`;
    if (place === undefined || !known.has(place.role)) {
      throw new ModelFileError(path, field, `is not known to architecture ${mapping.architecture.name}`);
    }
    const { layer, role } = place;
    if (layer >= mapping.config.numLayers) {
      throw new ModelFileError(path, field, `must be of one of the ${mapping.config.numLayers} layers`, layer);
    }
    const key = `${layer} ${role}`;
    if (seen.has(key)) throw new ModelFileError(path, field, `is the second ${role} of its place`);
    seen.add(key);
    sources.push(sourceOf(tensor, place, path, mapping));
  }
  checkComplete(seen, mapping);
  return sources;
}

function sourceOf(tensor: FileTensor, place: TensorPlace, path: string, mapping: TensorMapping): TensorSource {
  const { config } = mapping;
  const { dtype, shape, file, offsetBytes, sizeBytes } = tensor;
  const wanted = roleShape(place.role, config);
  const field = `tensor ${tensor.name}`;
  if (shape.length !== wanted.length || shape.some((size, i) => size !== wanted[i])) {
    throw new ModelFileError(path, field, `must have the shape ${JSON.stringify(wanted)}`, shape);
  }
  if (wanted.length === 1 && !vectorDtypes.includes(dtype)) {
    throw new ModelFileError(path, field, `must be one of ${vectorDtypes.join(", ")}`, dtype);
  }
  const isQ = place.role === "q_proj" || place.role === "q_bias";
  const isK = place.role === "k_proj" || place.role === "k_bias";
  const heads = isQ ? config.numQHeads : isK ? config.numKvHeads : 0;
  const [rows, cols] = matrixShape(wanted);
  const interleavedHeads = mapping.isInterleaved ? heads : 0;
  const { scales } = tensor;
  if (scales !== undefined && scales.count !== 1 && scales.count !== rows) {
    throw new ModelFileError(path, `${field}: its scales`, `must be 1 or ${rows}`, scales.count);
  }
  const source = { ...place, dtype, file, offsetBytes, sizeBytes, rows, cols, interleavedHeads };
  return scales === undefined ? source : { ...source, scales };
}

/**
 * The tensors of a model that lies in no file: all that its architecture must have, made up by the native library.
 *
 * @param mapping.needsLmHead Make an output matrix of its own.
 * @param seed Another seed gives other weights.
 */
export function madeUpTensors(
  { config, architecture, needsLmHead }: Pick<TensorMapping, "config" | "architecture" | "needsLmHead">,
  seed: number,
): TensorSource[] {
  const source = (role: TensorRole, layer: number): TensorSource => {
    const [rows, cols] = matrixShape(roleShape(role, config));
    const sizeBytes = dtypeBytes("BF16", rows * cols);
    return { role, layer, dtype: "BF16", file: null, offsetBytes: seed, sizeBytes, rows, cols, interleavedHeads: 0 };
  };
  const outside = [...neededRoles, ...(needsLmHead ? ["lm_head" as const] : [])].map((role) => source(role, -1));
  const roles = layerRoles(architecture);
  return [...outside, ...config.layers.flatMap((_, layer) => roles.map((role) => source(role, layer)))];
}

/** A vector is a matrix of one row. */
function matrixShape(shape: readonly number[]): [rows: number, cols: number] {
  return shape.length === 1 ? [1, shape[0]!] : [shape[0]!, shape[1]!];
}

/** Slowest first. */
function roleShape(role: TensorRole, config: ModelConfig): readonly number[] {
  const { hiddenSize, intermediateSize, headDim } = config;
  const qSize = config.numQHeads * headDim;
  const kvSize = config.numKvHeads * headDim;
  switch (role) {
    case "token_embedding":
    case "lm_head":
      return [config.vocabSize, hiddenSize];
    case "rope_factors":
      return [headDim / 2];
    case "q_proj":
      return [qSize, hiddenSize];
    case "k_proj":
    case "v_proj":
      return [kvSize, hiddenSize];
    case "o_proj":
      return [hiddenSize, qSize];
    case "q_bias":
      return [qSize];
    case "k_bias":
    case "v_bias":
      return [kvSize];
    case "q_norm":
    case "k_norm":
      return [headDim];
    case "attn_sinks":
      return [config.numQHeads];
    case "gate_proj":
    case "up_proj":
      return [intermediateSize, hiddenSize];
    case "down_proj":
      return [hiddenSize, intermediateSize];
    case "output_norm":
    case "attn_norm":
    case "o_bias":
    case "attn_post_norm":
    case "ffn_norm":
    case "ffn_post_norm":
      return [hiddenSize];
  }
}

/** Roles that each layer of an architecture must have. */
function layerRoles(architecture: Architecture): TensorRole[] {
  const roles = [...neededPerLayer];
  if (architecture.hasQkNorm) roles.push("q_norm", "k_norm");
  if (architecture.hasPostNorms) roles.push("attn_post_norm", "ffn_post_norm");
  if (architecture.needsQkvBias) roles.push("q_bias", "k_bias", "v_bias");
  return roles;
}

function checkComplete(seen: ReadonlySet<string>, mapping: TensorMapping): void {
  const { architecture, config, paths } = mapping;
  const need = (layer: number, role: TensorRole) => {
    if (seen.has(`${layer} ${role}`)) return;
    const where = layer < 0 ? "" : ` of layer ${layer}`;
    const problem = `of architecture ${architecture.name} is missing`;
    throw new ModelFileError(paths[0]!, `the ${role} tensor${where}`, problem);
  };
  for (const role of neededRoles) need(-1, role);
  if (mapping.needsLmHead) need(-1, "lm_head");
  const roles = layerRoles(architecture);
  for (let layer = 0; layer < config.numLayers; layer++) roles.forEach((role) => need(layer, role));
}
