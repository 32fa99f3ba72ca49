/**
 * `octavo_model`: weights in the native library.
 *
 * @module
 */

import { Handle } from "./_handle.ts";
import { ACTIVATION, DTYPE, FILE_RANDOM, KV_DTYPE, QUANTIZATION, ROLE, STATUS } from "./enums.ts";
import { type Library, NativeError } from "./library.ts";
import { LAYER_CONFIG, MODEL_CONFIG, TENSOR } from "./structs.ts";

/** What the library needs to know of a model; `ModelConfig` of models/types.ts has this shape. */
export interface NativeModelConfig {
  readonly vocabSize: number;
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly numLayers: number;
  readonly numQHeads: number;
  readonly numKvHeads: number;
  readonly headDim: number;
  readonly maxModelLen: number;
  readonly activation: keyof typeof ACTIVATION;
  readonly rmsNormEps: number;
  readonly normWeightOffset: number;
  readonly embeddingScale: number;
  readonly attnSoftmaxScale: number;
  readonly attnLogitSoftcap: number;
  readonly finalLogitSoftcap: number;
  readonly layers: readonly NativeLayerConfig[];
  /** `[2][headDim / 2]` */
  readonly invFreq: Float32Array;
  readonly ropeAttnFactor: readonly [number, number];
  /** What GPU builds compute in; the CPU build computes in f32. Default BF16. */
  readonly computeDtype?: "F16" | "BF16";
}

/** `octavo_layer_config` */
export interface NativeLayerConfig {
  readonly slidingWindow: number;
  readonly ropeTable: 0 | 1;
  /** Of this layer's cache in every engine; undefined: the engine's. */
  readonly kvDtype?: keyof typeof KV_DTYPE | undefined;
}

/** One tensor's place; `TensorSource` of models/types.ts has this shape. */
export interface NativeTensor {
  readonly role: keyof typeof ROLE;
  readonly layer: number;
  readonly dtype: keyof typeof DTYPE;
  /** Null: it is made up, and `offsetBytes` is the seed. */
  readonly file: number | null;
  readonly offsetBytes: number;
  readonly sizeBytes: number;
  readonly rows: number;
  readonly cols: number;
  readonly interleavedHeads: number;
  /** F8_E4M3: where its scales lie, one for all rows or one a row. */
  readonly scales?: NativeScales;
}

/** Where an FP8 matrix's scales lie. */
export interface NativeScales {
  readonly file: number;
  readonly dtype: "F32" | "F16" | "BF16";
  readonly offsetBytes: number;
  /** 1 or the matrix's rows. */
  readonly count: number;
}

/** How {@linkcode NativeModel} loads. */
export interface NativeModelOptions {
  /** Threads for loading; 0 = physical cores. Default 0. */
  readonly numThreads?: number;
  /** What GPU builds make of the layers' matrices. Default "none". */
  readonly quantization?: keyof typeof QUANTIZATION;
}

/** A model's weights. Load files and tensors, then `finish()`, then open engines, which keep its memory. */
export class NativeModel extends Handle {
  readonly config: NativeModelConfig;

  /** @throws {NativeError} A setting is out of its range. */
  constructor(library: Library, config: NativeModelConfig, options: NativeModelOptions = {}) {
    if (config.layers.length !== config.numLayers || config.invFreq.length !== config.headDim) {
      throw new RangeError(
        `Cannot create a model: expected ${config.numLayers} layers and ${config.headDim} inverse frequencies, ` +
          `received ${config.layers.length} and ${config.invFreq.length}`,
      );
    }
    const pointer = library.symbols.octavo_model_create(
      MODEL_CONFIG.encode({
        vocab_size: config.vocabSize,
        hidden_size: config.hiddenSize,
        intermediate_size: config.intermediateSize,
        num_layers: config.numLayers,
        num_q_heads: config.numQHeads,
        num_kv_heads: config.numKvHeads,
        head_dim: config.headDim,
        max_model_len: config.maxModelLen,
        activation: ACTIVATION[config.activation],
        num_threads: options.numThreads ?? 0,
        compute_dtype: DTYPE[config.computeDtype ?? "BF16"],
        quantization: QUANTIZATION[options.quantization ?? "none"],
        rms_norm_eps: config.rmsNormEps,
        norm_weight_offset: config.normWeightOffset,
        embedding_scale: config.embeddingScale,
        attn_softmax_scale: config.attnSoftmaxScale,
        attn_logit_softcap: config.attnLogitSoftcap,
        final_logit_softcap: config.finalLogitSoftcap,
        rope_attn_factor: config.ropeAttnFactor,
      }),
      LAYER_CONFIG.encodeAll(
        config.layers.map((layer) => ({
          sliding_window: layer.slidingWindow,
          rope_table: layer.ropeTable,
          kv_dtype: layer.kvDtype === undefined ? -1 : KV_DTYPE[layer.kvDtype],
        })),
      ),
      // A copy: the caller's may be a view of shared memory.
      new Float32Array(config.invFreq),
    );
    if (pointer === null) throw new NativeError(library.lastError(), null);
    super(library, "model", pointer, (p) => library.symbols.octavo_model_close(p));
    this.config = config;
  }

  /** Maps a file. @returns Its index for {@linkcode NativeTensor.file}. */
  addFile(path: string): number {
    const index = this.library.symbols.octavo_model_add_file(this.pointer, new TextEncoder().encode(path + "\0"));
    if (index < 0) throw new NativeError(this.library.lastError(), null);
    return index;
  }

  /** Reads and repacks one tensor. @throws {NativeError} It does not fit the config or its file. */
  loadTensor(tensor: NativeTensor): void {
    const { scales } = tensor;
    this.library.check(this.library.symbols.octavo_model_load_tensor(
      this.pointer,
      TENSOR.encode({
        role: ROLE[tensor.role],
        layer: tensor.layer,
        dtype: DTYPE[tensor.dtype],
        file: tensor.file ?? FILE_RANDOM,
        offset_bytes: tensor.offsetBytes,
        size_bytes: tensor.sizeBytes,
        rows: tensor.rows,
        cols: tensor.cols,
        interleaved_heads: tensor.interleavedHeads,
        num_scales: scales?.count ?? 0,
        scale_file: scales?.file ?? 0,
        scale_dtype: scales === undefined ? 0 : DTYPE[scales.dtype],
        scale_offset_bytes: scales?.offsetBytes ?? 0,
      }),
    ));
  }

  /** Checks that all tensors are there and unmaps the files. @throws {NativeError} Naming the first missing one. */
  finish(): void {
    this.library.check(this.library.symbols.octavo_model_finish(this.pointer));
  }

  /** Bytes the weights take in memory. */
  get weightBytes(): number {
    return this.library.symbols.octavo_model_weight_bytes(this.pointer);
  }

  /** Bytes of one KV page over all layers, kvDtype being that of the layers without their own. @throws {NativeError} pageSize is not 16, 32 or 64. */
  kvPageBytes(kvDtype: keyof typeof KV_DTYPE, pageSize: number): number {
    const bytes = this.library.symbols.octavo_kv_page_bytes(this.pointer, KV_DTYPE[kvDtype], pageSize);
    if (bytes === 0) throw new NativeError(this.library.lastError(), STATUS.INVALID_ARGUMENT);
    return bytes;
  }

  /** For {@linkcode NativeEngine}. */
  get nativePointer(): Deno.PointerObject {
    return this.pointer;
  }
}
