/**
 * The model an end-to-end bench runs: one that is there, or a folder of a known shape whose weights are made up.
 *
 * @module
 */

import { fetchDemoModel } from "../models/demo.ts";
import type { LOAD_FORMATS } from "../models/open_model.ts";

/** config.json of the shapes that can be made up. */
const SHAPES: Readonly<Record<string, Readonly<Record<string, unknown>>>> = {
  "llama-3.1-8b": {
    architectures: ["LlamaForCausalLM"],
    model_type: "llama",
    hidden_size: 4096,
    intermediate_size: 14336,
    num_hidden_layers: 32,
    num_attention_heads: 32,
    num_key_value_heads: 8,
    head_dim: 128,
    vocab_size: 128_256,
    max_position_embeddings: 131_072,
    rope_theta: 500_000,
    rope_scaling: {
      factor: 8,
      low_freq_factor: 1,
      high_freq_factor: 4,
      original_max_position_embeddings: 8192,
      rope_type: "llama3",
    },
    rms_norm_eps: 1e-5,
    hidden_act: "silu",
    tie_word_embeddings: false,
    torch_dtype: "bfloat16",
    bos_token_id: 128_000,
    eos_token_id: 128_001,
  },
};

/** A model to open, and what takes its folder away again if it was made. */
export interface BenchModel extends AsyncDisposable {
  readonly source: string;
  readonly loadFormat: typeof LOAD_FORMATS[number];
}

/**
 * @param shape One of the shapes, with the number of layers changed where `layers` is given; else `source`, or the demo
 * model.
 * @throws {RangeError} The shape is not known.
 */
export async function benchModel(
  { source, shape, layers }: { source: string | undefined; shape: string | undefined; layers: string | undefined },
): Promise<BenchModel> {
  if (shape === undefined) {
    return { source: source ?? await fetchDemoModel(), loadFormat: "auto", [Symbol.asyncDispose]: async () => {} };
  }
  const config = SHAPES[shape];
  if (config === undefined) {
    throw new RangeError(`--shape must be one of ${Object.keys(SHAPES).join(", ")}, received "${shape}"`);
  }
  const folder = await Deno.makeTempDir({ prefix: `octavo-${shape}-` });
  const changes = layers === undefined ? {} : { num_hidden_layers: Number(layers) };
  await Deno.writeTextFile(`${folder}/config.json`, JSON.stringify({ ...config, ...changes }));
  await Deno.writeTextFile(
    `${folder}/tokenizer.json`,
    JSON.stringify(standInTokenizer(config["vocab_size"] as number)),
  );
  return {
    source: folder,
    loadFormat: "dummy",
    [Symbol.asyncDispose]: () => Deno.remove(folder, { recursive: true }),
  };
}

/** One token a byte, then words that no text is encoded to. */
function standInTokenizer(vocabSize: number): unknown {
  const bytes = byteLevelAlphabet();
  const vocab = Object.fromEntries(
    Array.from({ length: vocabSize }, (_, id) => [id < bytes.length ? bytes[id]! : `Ġt${id}`, id]),
  );
  const byteLevel = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true };
  return {
    version: "1.0",
    added_tokens: [],
    normalizer: null,
    pre_tokenizer: byteLevel,
    post_processor: null,
    decoder: byteLevel,
    model: { type: "BPE", vocab, merges: [] },
  };
}

/** GPT-2's printable character for each byte. */
function byteLevelAlphabet(): string[] {
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) => {
    const isPrintable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    return String.fromCodePoint(isPrintable ? byte : next++);
  });
}
