/**
 * Writes GGUF files, sound or not, for tests.
 *
 * @module
 */

export type MetadataValue =
  | string
  | boolean
  | { readonly u32: number }
  | { readonly f32: number }
  | { readonly strings: readonly string[] }
  | { readonly i32s: readonly number[] }
  | { readonly f32s: readonly number[] };

export interface GgufTensorSpec {
  readonly name: string;
  readonly dims: readonly (number | bigint)[];
  /** GGUF's type number; default F32. */
  readonly type?: number;
  /** From the start of the data; by default behind the tensor before. */
  readonly offset?: bigint;
}

export interface GgufSpec {
  readonly version?: number;
  readonly metadata: readonly (readonly [string, MetadataValue])[];
  readonly tensors: readonly GgufTensorSpec[];
  /** Instead of the true counts. */
  readonly tensorCount?: bigint;
  readonly metadataCount?: bigint;
}

const alignment = 32;

/** The bytes of a GGUF file; tensors' data are zeros. */
export function writeGguf(spec: GgufSpec): Uint8Array<ArrayBuffer> {
  const writer = new Writer();
  writer.text("GGUF");
  writer.u32(spec.version ?? 3);
  writer.u64(spec.tensorCount ?? BigInt(spec.tensors.length));
  writer.u64(spec.metadataCount ?? BigInt(spec.metadata.length));
  for (const [key, value] of spec.metadata) {
    writer.string(key);
    writer.value(value);
  }
  let dataBytes = 0n;
  for (const { name, dims, type = 0, offset = dataBytes } of spec.tensors) {
    writer.string(name);
    writer.u32(dims.length);
    dims.forEach((dim) => writer.u64(BigInt(dim)));
    writer.u32(type);
    writer.u64(offset);
    const bytes = dims.reduce<bigint>((product, dim) => product * BigInt(dim), 4n);
    dataBytes += (bytes + 31n) / 32n * 32n;
  }
  writer.align();
  if (dataBytes < 1 << 20) writer.zeros(Number(dataBytes));
  return writer.bytes();
}

class Writer {
  readonly #bytes: number[] = [];

  u32(value: number): void {
    this.#view(4, (view) => view.setUint32(0, value, true));
  }

  u64(value: bigint): void {
    this.#view(8, (view) => view.setBigUint64(0, value, true));
  }

  text(value: string): void {
    this.#bytes.push(...new TextEncoder().encode(value));
  }

  string(value: string): void {
    this.u64(BigInt(new TextEncoder().encode(value).length));
    this.text(value);
  }

  value(value: MetadataValue): void {
    if (typeof value === "string") {
      this.u32(8);
      this.string(value);
    } else if (typeof value === "boolean") {
      this.u32(7);
      this.#bytes.push(Number(value));
    } else if ("u32" in value) {
      this.u32(4);
      this.u32(value.u32);
    } else if ("f32" in value) {
      this.u32(6);
      this.#f32(value.f32);
    } else if ("strings" in value) {
      this.#array(8, value.strings, (entry) => this.string(entry));
    } else if ("i32s" in value) this.#array(5, value.i32s, (entry) => this.u32(entry));
    else this.#array(6, value.f32s, (entry) => this.#f32(entry));
  }

  #f32(value: number): void {
    this.#view(4, (view) => view.setFloat32(0, value, true));
  }

  #array<T>(type: number, values: readonly T[], write: (value: T) => void): void {
    this.u32(9);
    this.u32(type);
    this.u64(BigInt(values.length));
    values.forEach(write);
  }

  align(): void {
    this.zeros((alignment - this.#bytes.length % alignment) % alignment);
  }

  zeros(count: number): void {
    for (let i = 0; i < count; i++) this.#bytes.push(0);
  }

  bytes(): Uint8Array<ArrayBuffer> {
    return Uint8Array.from(this.#bytes);
  }

  #view(width: number, set: (view: DataView) => void): void {
    const bytes = new Uint8Array(width);
    set(new DataView(bytes.buffer));
    this.#bytes.push(...bytes);
  }
}

const vector = (name: string, size: number): GgufTensorSpec => ({ name, dims: [size] });
const matrix = (name: string, rows: number, cols: number): GgufTensorSpec => ({ name, dims: [cols, rows] });

/** A whole model: 2 layers, hidden 32, 4 query heads and 2 kv heads of 8, 6 tokens. */
export function tinyGguf(architecture = "llama", changes: Record<string, MetadataValue | null> = {}): GgufSpec {
  const isGemma = architecture.startsWith("gemma");
  const metadata: Record<string, MetadataValue> = {
    "general.architecture": architecture,
    [`${architecture}.block_count`]: { u32: 2 },
    [`${architecture}.context_length`]: { u32: 64 },
    [`${architecture}.embedding_length`]: { u32: 32 },
    [`${architecture}.feed_forward_length`]: { u32: 48 },
    [`${architecture}.attention.head_count`]: { u32: 4 },
    [`${architecture}.attention.head_count_kv`]: { u32: 2 },
    [`${architecture}.attention.layer_norm_rms_epsilon`]: { f32: 1e-6 },
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "gpt-2",
    "tokenizer.ggml.tokens": { strings: ["<|end|>", "a", "b", "ab", "<|im_end|>", "\u0120"] },
    "tokenizer.ggml.token_type": { i32s: [3, 1, 1, 1, 3, 1] },
    "tokenizer.ggml.merges": { strings: ["a b"] },
    "tokenizer.ggml.eos_token_id": { u32: 0 },
    "tokenizer.chat_template": "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}",
  };
  for (const [key, value] of Object.entries(changes)) {
    if (value === null) delete metadata[key];
    else metadata[key] = value;
  }
  const layers = [0, 1].flatMap((layer) => {
    const at = (name: string) => `blk.${layer}.${name}.weight`;
    return [
      vector(at("attn_norm"), 32),
      matrix(at("attn_q"), 32, 32),
      matrix(at("attn_k"), 16, 32),
      matrix(at("attn_v"), 16, 32),
      matrix(at("attn_output"), 32, 32),
      vector(at("ffn_norm"), 32),
      matrix(at("ffn_gate"), 48, 32),
      matrix(at("ffn_up"), 48, 32),
      matrix(at("ffn_down"), 32, 48),
      ...(isGemma ? [vector(at("post_attention_norm"), 32), vector(at("post_ffw_norm"), 32)] : []),
      ...(architecture === "gemma3" || architecture === "qwen3"
        ? [vector(at("attn_q_norm"), 8), vector(at("attn_k_norm"), 8)]
        : []),
    ];
  });
  const tensors = [matrix("token_embd.weight", 6, 32), vector("output_norm.weight", 32), ...layers];
  return { metadata: Object.entries(metadata), tensors };
}
