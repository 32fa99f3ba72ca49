/**
 * A tokenizer.json from a GGUF file's metadata: byte-level BPE ("gpt2") and SentencePiece BPE ("llama").
 *
 * @module
 */

import type { GgufHeader } from "./gguf.ts";
import { Fields } from "./fields.ts";
import { preTokenizers } from "./pre_tokenizers.ts";
import type { AddedToken, Component, TokenizerJson } from "./tokenizer_json.ts";

/** llama.cpp's `enum llama_token_type`. */
const tokenType = { normal: 1, unknown: 2, control: 3, userDefined: 4 } as const;

interface GgufVocabulary {
  readonly fields: Fields;
  readonly tokens: readonly string[];
  readonly types: ArrayLike<number>;
}

/**
 * Builds the tokenizer.json that a GGUF file stands for.
 *
 * @throws {ModelFileError} When the metadata is incomplete, contradicts itself or is of a kind not known.
 */
export function ggufTokenizerJson(header: GgufHeader): { json: TokenizerJson; bosToken: string | null } {
  const fields = Fields.ofGguf(header);
  const tokens = fields.strings("tokenizer.ggml.tokens");
  const types = fields.numbersOr("tokenizer.ggml.token_type", tokens.length) ?? new Int32Array(tokens.length).fill(1);
  const vocabulary = { fields, tokens, types };
  const model = fields.string("tokenizer.ggml.model");
  if (model !== "gpt2" && model !== "llama") {
    fields.fail("tokenizer.ggml.model", "must be gpt2 (byte-level BPE) or llama (SentencePiece)", model);
  }
  const parts = model === "gpt2" ? byteLevelParts(vocabulary) : sentencePieceParts(vocabulary);
  const bosId = fields.tokenIdOr("tokenizer.ggml.bos_token_id", tokens.length);
  const eosId = fields.tokenIdOr("tokenizer.ggml.eos_token_id", tokens.length);
  const addBos = fields.booleanOr("tokenizer.ggml.add_bos_token", parts.addsBos);
  const addEos = fields.booleanOr("tokenizer.ggml.add_eos_token", false);
  const { addsBos: _addsBos, matchesNormalized, ...components } = parts;
  const json = {
    version: "1.0",
    added_tokens: addedTokens(vocabulary, matchesNormalized),
    post_processor: template(tokens, addBos ? bosId : null, addEos ? eosId : null),
    ...components,
  };
  return { json, bosToken: bosId === null ? null : tokens[bosId]! };
}

type Parts = Pick<TokenizerJson, "normalizer" | "pre_tokenizer" | "decoder" | "model"> & {
  /** Whether BOS is added where the file does not say. */
  readonly addsBos: boolean;
  /** User-defined tokens are looked for in the normalized text: Gemma's runs of spaces. */
  readonly matchesNormalized: boolean;
};

function byteLevelParts({ fields, tokens }: GgufVocabulary): Parts {
  const name = fields.stringOr("tokenizer.ggml.pre", "default");
  const preTokenizer = Object.hasOwn(preTokenizers, name) ? preTokenizers[name] : undefined;
  if (preTokenizer === undefined) {
    return fields.fail("tokenizer.ggml.pre", `must be one of ${Object.keys(preTokenizers).join(", ")}`, name);
  }
  const merges = fields.strings("tokenizer.ggml.merges").map((merge, i) => {
    // The space cannot be the first character: "  a" would be the merge of a space, which byte-level BPE spells U+0120.
    const at = merge.indexOf(" ", 1);
    if (at < 0) fields.fail(`tokenizer.ggml.merges[${i}]`, "must be two tokens with a space between", merge);
    return [merge.slice(0, at), merge.slice(at + 1)];
  });
  const splits = preTokenizer.patterns.map((pattern) => ({
    type: "Split",
    pattern: { Regex: pattern },
    behavior: "Isolated",
    invert: false,
  }));
  return {
    normalizer: preTokenizer.normalizesNfc ? { type: "NFC" } : null,
    pre_tokenizer: {
      type: "Sequence",
      pretokenizers: [...splits, { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: false }],
    },
    decoder: { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: { type: "BPE", vocab: vocabularyMap(tokens), merges, ignore_merges: preTokenizer.ignoresMerges },
    addsBos: preTokenizer.addsBos,
    matchesNormalized: false,
  };
}

const space = "\u2581";

function sentencePieceParts(vocabulary: GgufVocabulary): Parts {
  const { fields, tokens } = vocabulary;
  const unknownId = fields.tokenIdOr("tokenizer.ggml.unknown_token_id", tokens.length);
  const hasPrefix = fields.booleanOr("tokenizer.ggml.add_space_prefix", true);
  const replace: Component = { type: "Replace", pattern: { String: " " }, content: space };
  const decoders: Component[] = [
    { type: "Replace", pattern: { String: space }, content: " " },
    { type: "ByteFallback" },
    { type: "Fuse" },
  ];
  if (hasPrefix) decoders.push({ type: "Strip", content: " ", start: 1, stop: 0 });
  return {
    normalizer: hasPrefix ? { type: "Sequence", normalizers: [{ type: "Prepend", prepend: space }, replace] } : replace,
    pre_tokenizer: null,
    decoder: { type: "Sequence", decoders },
    model: {
      type: "BPE",
      vocab: vocabularyMap(tokens),
      merges: mergesFromScores(vocabulary),
      unk_token: unknownId === null ? null : tokens[unknownId],
      fuse_unk: true,
      byte_fallback: true,
    },
    addsBos: true,
    // The prefix would be put before each of them too.
    matchesNormalized: !hasPrefix,
  };
}

/**
 * SentencePiece merges the pair whose whole has the best score; BPE the pair that comes first in a list. So: every way
 * to cut a piece into two pieces, best score first, among equals the longest left part first.
 */
function mergesFromScores({ fields, tokens, types }: GgufVocabulary): [string, string][] {
  const scores = fields.numbersOr("tokenizer.ggml.scores", tokens.length);
  if (scores === null) return fields.fail("tokenizer.ggml.scores", "must be there");
  const known = new Set(tokens);
  const merges: { score: number; left: string; right: string }[] = [];
  tokens.forEach((token, id) => {
    const score = scores[id]!;
    if (types[id] !== tokenType.normal) return;
    if (Number.isNaN(score)) fields.fail(`tokenizer.ggml.scores[${id}]`, "must be a number", score);
    for (let cut = 1; cut < token.length; cut++) {
      const left = token.slice(0, cut);
      if (!known.has(left)) continue;
      const right = token.slice(cut);
      if (known.has(right)) merges.push({ score, left, right });
    }
  });
  merges.sort((a, b) => b.score - a.score || b.left.length - a.left.length || b.right.length - a.right.length);
  return merges.map(({ left, right }) => [left, right]);
}

/** Special tokens and those that are never split. */
function addedTokens({ tokens, types }: GgufVocabulary, matchesNormalized: boolean): AddedToken[] {
  return tokens.flatMap((content, id) => {
    const special = types[id] === tokenType.control || types[id] === tokenType.unknown;
    if (content === "" || (!special && types[id] !== tokenType.userDefined)) return [];
    const normalized = matchesNormalized && !special;
    return [{ id, content, special, normalized, single_word: false, lstrip: false, rstrip: false }];
  });
}

function vocabularyMap(tokens: readonly string[]): Record<string, number> {
  // No prototype: a token may be called "__proto__".
  const vocab: Record<string, number> = Object.create(null);
  tokens.forEach((token, id) => vocab[token] = id);
  return vocab;
}

/** Adds BOS before and EOS after a text; null where neither is wanted. */
function template(tokens: readonly string[], bosId: number | null, eosId: number | null): Component | null {
  if (bosId === null && eosId === null) return null;
  const special = (id: number) => ({ SpecialToken: { id: tokens[id]!, type_id: 0 } });
  const single = [
    ...(bosId === null ? [] : [special(bosId)]),
    { Sequence: { id: "A", type_id: 0 } },
    ...(eosId === null ? [] : [special(eosId)]),
  ];
  const ids = [bosId, eosId].filter((id) => id !== null);
  const entries = ids.map((id) => [tokens[id]!, { id: tokens[id]!, ids: [id], tokens: [tokens[id]!] }]);
  return { type: "TemplateProcessing", single, pair: single, special_tokens: Object.fromEntries(entries) };
}
