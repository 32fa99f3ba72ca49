/**
 * What a model is once its files are read: the contract between `models/` (which reads files), `ffi/` (which hands
 * tensors to the native library) and `engine/` (which runs it). Nothing here touches a tensor element.
 *
 * @module
 */

/**
 * Element type of a tensor as it lies in a file; block formats are GGML's, F8_E4M3 has scales beside it. Same names as
 * `octavo_dtype`.
 */
export type TensorDtype =
  | "F32"
  | "F16"
  | "BF16"
  | "Q4_0"
  | "Q4_1"
  | "Q5_0"
  | "Q5_1"
  | "Q8_0"
  | "Q2_K"
  | "Q3_K"
  | "Q4_K"
  | "Q5_K"
  | "Q6_K"
  | "IQ4_NL"
  | "IQ4_XS"
  | "F8_E4M3";

/** What a tensor is for; the lower-case names of `octavo_role` without its prefix. */
export type TensorRole =
  | "token_embedding"
  | "output_norm"
  | "lm_head"
  | "rope_factors"
  | "attn_norm"
  | "q_proj"
  | "k_proj"
  | "v_proj"
  | "o_proj"
  | "q_bias"
  | "k_bias"
  | "v_bias"
  | "o_bias"
  | "q_norm"
  | "k_norm"
  | "attn_post_norm"
  | "ffn_norm"
  | "gate_proj"
  | "up_proj"
  | "down_proj"
  | "ffn_post_norm"
  | "attn_sinks";

/** Where the scales of an FP8 matrix lie: weight = element x scale of its row. */
export interface ScaleSource {
  /** Index into {@linkcode ModelFiles.paths}. */
  readonly file: number;
  readonly dtype: "F32" | "F16" | "BF16";
  /** From the start of the file. */
  readonly offsetBytes: number;
  /** 1 for all rows, or one a row. */
  readonly count: number;
}

/** Where one tensor lies, checked against the size of its file. */
export interface TensorSource {
  readonly role: TensorRole;
  /** 0-based layer, or -1 for tensors outside the layers. */
  readonly layer: number;
  readonly dtype: TensorDtype;
  /** Index into {@linkcode ModelFiles.paths}; null: it is made up, and `offsetBytes` is the seed. */
  readonly file: number | null;
  /** From the start of the file. */
  readonly offsetBytes: number;
  readonly sizeBytes: number;
  /** Output features; 1 for vectors. */
  readonly rows: number;
  /** Input features, or the length of a vector. */
  readonly cols: number;
  /** > 0: rows are this many heads with RoPE pairs side by side (GGUF's llama architecture); else 0. */
  readonly interleavedHeads: number;
  /** F8_E4M3 only. */
  readonly scales?: ScaleSource;
}

/** One decoder layer's settings. */
export interface LayerConfig {
  /** Keys visible to a query, itself included; 0 = all. */
  readonly slidingWindow: number;
  /** Which half of {@linkcode ModelConfig.invFreq}. */
  readonly ropeTable: 0 | 1;
}

/** A decoder-only transformer; field for field `octavo_model_config`, plus what only TypeScript needs. */
export interface ModelConfig {
  /** For example "llama", "qwen2", "qwen3", "gemma2", "gemma3", "mistral". */
  readonly architecture: string;
  readonly vocabSize: number;
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly numLayers: number;
  readonly numQHeads: number;
  readonly numKvHeads: number;
  /** A multiple of 8, at most 256. */
  readonly headDim: number;
  /** Longest sequence the model was made for (after RoPE scaling). */
  readonly maxModelLen: number;
  readonly activation: "silu" | "gelu_tanh";
  readonly rmsNormEps: number;
  /** Added to every RMSNorm weight: 1 for Gemma's safetensors, else 0. */
  readonly normWeightOffset: number;
  readonly embeddingScale: number;
  /** Multiplies q·k. */
  readonly attnSoftmaxScale: number;
  /** 0 = none. */
  readonly attnLogitSoftcap: number;
  /** 0 = none. */
  readonly finalLogitSoftcap: number;
  readonly layers: readonly LayerConfig[];
  /** Inverse RoPE frequencies, `[2][headDim / 2]`, radians per position; scaling already applied. */
  readonly invFreq: Float32Array;
  /** Multiplies cos and sin of RoPE table 0 and 1. */
  readonly ropeAttnFactor: readonly [number, number];
  /** The dtype the weights were trained or saved in, where the files say so; what `--kv-cache-dtype auto` uses. */
  readonly dtype: "float32" | "float16" | "bfloat16";
}

/** Sampling defaults a model's generation_config.json brings; absent fields are absent there. */
export interface GenerationDefaults {
  /** 0 = greedy. */
  readonly temperature?: number;
  /** (0, 1]. */
  readonly topP?: number;
  /** 0 = all. */
  readonly topK?: number;
  /** [0, 1]. */
  readonly minP?: number;
  /** 0.01 .. 100; 1 = none. */
  readonly repetitionPenalty?: number;
}

/**
 * Bytes of every token, for detokenizing without the tokenizer. All arrays are backed by SharedArrayBuffers, so
 * they cross into a Worker without a copy.
 */
export interface TokenTable {
  /** Bytes of all tokens, one after another. */
  readonly bytes: Uint8Array;
  /** Token id's bytes are `bytes[offsets[id] .. offsets[id + 1]]`; length vocabSize + 1. */
  readonly offsets: Int32Array;
  /** Bit 0: special (left out of text by `skip_special_tokens`). Bit 1: a byte-fallback token (`<0x0A>`). */
  readonly flags: Uint8Array;
  /** SentencePiece models with a dummy prefix: one space is cut from the start of a text. */
  readonly stripFirstSpace: boolean;
}

/** What is made of special tokens. */
export interface EncodeOptions {
  /** Add what the model's tokenizer adds around a text (for example BOS). Default true. */
  readonly addSpecialTokens?: boolean;
  /** Recognise special tokens written in the text. Default true. */
  readonly parseSpecialTokens?: boolean;
}

/** Encodes texts as {@linkcode Tokenizer.encode} does, without standing in the way of others for long. */
export interface AsyncEncoder {
  encode(text: string, options?: EncodeOptions): Promise<number[]>;
}

/** Text to token ids and what is needed for the way back. */
export interface Tokenizer {
  /** Ids below this may occur: the model's vocabSize. Ids that the tokenizer lacks have no bytes. */
  readonly vocabSize: number;
  /** The token that begins a sequence, or null. */
  readonly bosTokenId: number | null;
  /** Bytes and flags of every token. */
  readonly table: TokenTable;
  /** Encodes a text. */
  encode(text: string, options?: EncodeOptions): number[];
  /**
   * Decodes ids to text in one go; special tokens are left out unless `skipSpecialTokens` is false.
   *
   * @throws {RangeError} When an id is not below `vocabSize`.
   */
  decode(ids: readonly number[], options?: { skipSpecialTokens?: boolean }): string;
  /** The token as its vocabulary writes it, or undefined for an unknown id. */
  idToToken(id: number): string | undefined;
}

/** One chat message in OpenAI's shape; content parts of type text are already joined. */
export interface ChatMessage {
  /** "system", "user", "assistant", "tool", or what else the template knows. */
  readonly role: string;
  /** Its text; null where a message has only other fields, such as tool calls. */
  readonly content: string | null;
  /** What else the template may read. */
  readonly [field: string]: unknown;
}

/** A model's chat template. */
export interface ChatTemplate {
  readonly source: string;
  /**
   * Renders messages to the prompt's text. The text holds all special tokens: encode it with
   * `addSpecialTokens: false`.
   *
   * @throws {TemplateError} When the template refuses the messages; its message is the template's own.
   */
  render(
    messages: readonly ChatMessage[],
    options?: { addGenerationPrompt?: boolean; variables?: Record<string, unknown> },
  ): string;
}

/** Scales of one layer's K and V in an FP8 cache: real = stored x scale. */
export interface LayerKvScales {
  /** One, or one a KV head. */
  readonly k: readonly number[];
  readonly v: readonly number[];
  readonly granularity: "tensor" | "head";
  /** "file": given with `--kv-scales`; "calculated": from the first tokens; "default": 1. */
  readonly source: "file" | "checkpoint" | "calibration" | "calculated" | "default";
}

/** What a file says of the KV cache's scales. */
export interface KvScaleTable {
  /** Of each layer; null = none that can be used. */
  readonly layers: readonly (LayerKvScales | null)[];
  /** Of each layer, K's mean, `[numKvHeads][headDim]`; null = none. */
  readonly means: readonly (Float32Array | null)[];
  /** Of each layer, the tensors whose values are used. */
  readonly names: readonly (readonly string[])[];
  /** What is wrong, in sentences that name the layer. */
  readonly problems: readonly string[];
}

/** What a checkpoint says of the KV cache. */
export interface CheckpointKvCache {
  /** What asks for an FP8 (E4M3) cache, for the log, for example "config.json's kv_cache_scheme"; null = nothing does. */
  readonly fp8AskedBy: string | null;
  readonly scales: KvScaleTable;
}

/** A model's files, read and checked, with nothing loaded yet. */
export interface ModelFiles {
  /** Name to serve by default, for example "SmolLM2-135M-Instruct". */
  readonly name: string;
  /** Where it was found: a file or folder. */
  readonly source: string;
  /** Absolute paths of the files that hold tensors. */
  readonly paths: readonly string[];
  readonly config: ModelConfig;
  readonly tensors: readonly TensorSource[];
  readonly kvCache: CheckpointKvCache;
  readonly tokenizer: Tokenizer;
  /** Null when the model brings none (a base model). */
  readonly chatTemplate: ChatTemplate | null;
  readonly generationDefaults: GenerationDefaults;
  /** Ids that end a sequence. */
  readonly eosTokenIds: readonly number[];
}
