/**
 * Text to token ids through `@huggingface/tokenizers`, ids to text through a table of bytes.
 *
 * @module
 */

import { Tokenizer as HuggingFaceTokenizer } from "@huggingface/tokenizers";
import { ModelFileError } from "./errors.ts";
import { buildTokenTable, decodeTokens } from "./token_table.ts";
import { checkTokenizerJson, decoderStyle, tokenList } from "./tokenizer_json.ts";
import type { Tokenizer } from "./types.ts";

export interface TokenizerSource {
  /** For error messages. */
  readonly file: string;
  /** The content of a tokenizer.json. */
  readonly json: unknown;
  /** Text of the token that begins a sequence, or null. */
  readonly bosToken: string | null;
  /** The model's; ids from here on are dropped from the tokenizer (Gemma 3's `<image_soft_token>`). */
  readonly vocabSize: number;
}

/**
 * Builds a tokenizer from a tokenizer.json.
 *
 * @throws {ModelFileError} When the tokenizer is damaged, of a kind not known, or larger than the model's vocabulary.
 */
export function createTokenizer(source: TokenizerSource): Tokenizer {
  const { file, vocabSize } = source;
  const checked = checkTokenizerJson(file, source.json);
  const json = { ...checked, added_tokens: checked.added_tokens.filter(({ id }) => id < vocabSize) };
  const tokens = tokenList(file, json);
  if (tokens.length > vocabSize) {
    throw new ModelFileError(
      file,
      "model.vocab",
      `must have ids below the model's vocabulary of ${vocabSize}`,
      tokens.length - 1,
    );
  }
  const added = new Map(json.added_tokens.map(({ id, special }) => [id, special === true]));
  const table = buildTokenTable({ ...decoderStyle(file, json.decoder), tokens, added, vocabSize });
  const bosTokenId = source.bosToken === null ? -1 : tokens.indexOf(source.bosToken);
  const { whole, plain } = encoders(file, json);
  return {
    vocabSize,
    bosTokenId: bosTokenId < 0 ? null : bosTokenId,
    table,
    encode(text, { addSpecialTokens = true, parseSpecialTokens = true } = {}) {
      const encoder = parseSpecialTokens ? whole : plain;
      return encoder.encode(text, { add_special_tokens: addSpecialTokens }).ids;
    },
    decode: (ids, { skipSpecialTokens = true } = {}) => decodeTokens(table, ids, skipSpecialTokens),
    idToToken: (id) => tokens[id],
  };
}

/** Two tokenizers over one vocabulary: `plain` takes special tokens for text. */
function encoders(file: string, json: ReturnType<typeof checkTokenizerJson>) {
  try {
    const whole = new HuggingFaceTokenizer(json, {});
    const isText = (token: { special: boolean }) => token.special !== true;
    const empty = { type: "BPE", vocab: {}, merges: [] };
    const plain = new HuggingFaceTokenizer(
      { ...json, added_tokens: json.added_tokens.filter(isText), model: empty },
      {},
    );
    plain.model = whole.model;
    return { whole, plain };
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new ModelFileError(file, "tokenizer", `is of a kind not known: ${reason}`);
  }
}
