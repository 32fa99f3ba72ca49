/**
 * How byte-level BPE cuts a text before merging, by the name that GGUF files give (`tokenizer.ggml.pre`).
 *
 * Names and patterns: llama.cpp's `llama-vocab.cpp`, which took them from the models' tokenizer.json; patterns stand here
 * in tokenizer.json's form.
 *
 * @module
 */

import { gpt2Pattern } from "./tokenizer_json.ts";

export interface PreTokenizer {
  /** Applied one after another; matches and what lies between them are pieces. */
  readonly patterns: readonly string[];
  readonly normalizesNfc: boolean;
  /** A piece that is a token is taken whole. */
  readonly ignoresMerges: boolean;
  /** BOS is added where the file does not say. */
  readonly addsBos: boolean;
}

const plain = { normalizesNfc: false, ignoresMerges: false, addsBos: false };

const gpt2: PreTokenizer = { ...plain, patterns: [gpt2Pattern] };
const digits: PreTokenizer = { ...plain, patterns: [String.raw`\p{N}`, gpt2Pattern] };
const fallback: PreTokenizer = {
  ...plain,
  patterns: [
    String.raw`[\p{P}\$\+<=>\^~\|]+`,
    String.raw`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)`,
    String.raw`\p{N}+`,
    "[0-9][0-9][0-9]",
  ],
};

const contractions = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const rest = String.raw` ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`;
const word = String.raw`[^\r\n\p{L}\p{N}]?\p{L}+`;
const llama3Patterns = [String.raw`${contractions}|${word}|\p{N}{1,3}|${rest}`];
const qwen2Patterns = [String.raw`${contractions}|${word}|\p{N}|${rest}`];

const llama3: PreTokenizer = { patterns: llama3Patterns, normalizesNfc: false, ignoresMerges: true, addsBos: true };
const dbrx: PreTokenizer = { ...plain, patterns: llama3Patterns };
const qwen2: PreTokenizer = { ...plain, patterns: qwen2Patterns, normalizesNfc: true };
const stablelm2: PreTokenizer = { ...plain, patterns: qwen2Patterns };

const upper = String.raw`[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`;
const lower = String.raw`[\p{Ll}\p{Lm}\p{Lo}\p{M}]`;
const tekken: PreTokenizer = {
  patterns: [
    String.raw`[^\r\n\p{L}\p{N}]?${upper}*${lower}+|[^\r\n\p{L}\p{N}]?${upper}+${lower}*|\p{N}` +
    String.raw`| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`,
  ],
  normalizesNfc: false,
  ignoresMerges: true,
  addsBos: true,
};

const deepseekCoder: PreTokenizer = {
  ...plain,
  patterns: [
    String.raw`[\r\n]`,
    String.raw`\s?\p{L}+`,
    String.raw`\s?\p{P}+`,
    "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+",
    String.raw`\p{N}`,
  ],
};

export const preTokenizers: Readonly<Record<string, PreTokenizer>> = {
  "default": fallback,
  "gpt-2": gpt2,
  "phi-2": gpt2,
  "mpt": gpt2,
  "olmo": gpt2,
  "jais": gpt2,
  "smollm": digits,
  "starcoder": digits,
  "refact": digits,
  "command-r": digits,
  "codeshell": digits,
  "exaone": digits,
  "llama3": llama3,
  "llama-v3": llama3,
  "llama-bpe": llama3,
  "falcon3": llama3,
  "dbrx": dbrx,
  "smaug-bpe": dbrx,
  "qwen2": qwen2,
  "deepseek-r1-qwen": qwen2,
  "stablelm2": stablelm2,
  "tekken": tekken,
  "deepseek-coder": deepseekCoder,
};
