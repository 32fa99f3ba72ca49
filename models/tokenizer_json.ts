/**
 * The parts of Hugging Face's tokenizer.json that Octavo looks at, checked, and the corrections that
 * `@huggingface/tokenizers` needs to tokenize as the reference library does.
 *
 * @module
 */

import { ModelFileError } from "./errors.ts";
import { isRecord } from "./fields.ts";
import type { TokenSpelling } from "./token_table.ts";

export interface AddedToken {
  readonly id: number;
  readonly content: string;
  readonly special: boolean;
  readonly normalized?: boolean;
  readonly [field: string]: unknown;
}

/** A component (normalizer, pre-tokenizer, decoder, post-processor); `type` says which. */
export interface Component {
  readonly type: string;
  readonly [field: string]: unknown;
}

export interface TokenizerJson {
  readonly added_tokens: readonly AddedToken[];
  readonly normalizer: Component | null;
  readonly pre_tokenizer: Component | null;
  readonly post_processor: Component | null;
  readonly decoder: Component;
  readonly model: Component;
  readonly [field: string]: unknown;
}

/** GPT-2's pre-tokenizer, which tokenizer.json names as ByteLevel with `use_regex`. */
export const gpt2Pattern = String
  .raw`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`;

/** Ids beyond this are no vocabulary's; a guard against arrays of absurd length. */
const maxTokenId = 1 << 24;

/** Checks the fields that are used, and corrects the pre-tokenizer. */
export function checkTokenizerJson(file: string, value: unknown): TokenizerJson {
  const fail = (field: string, problem: string, ...found: [] | [unknown]): never => {
    throw new ModelFileError(file, field, problem, ...found);
  };
  if (!isRecord(value)) return fail("tokenizer", "must be a JSON object", value);
  const component = (name: string): Component | null => {
    const part = value[name] ?? null;
    if (part === null) return null;
    return isComponent(part) ? part : fail(name, "must be an object with a type", part);
  };
  const { model, decoder } = value;
  if (!isRecord(model)) return fail("model", "must be an object", model);
  const type = model["type"] ?? (Array.isArray(model["merges"]) ? "BPE" : undefined);
  if (type !== "BPE" && type !== "Unigram") return fail("model.type", "must be BPE or Unigram", type);
  if (!isComponent(decoder)) return fail("decoder", "must be an object with a type", decoder);
  const added = value["added_tokens"] ?? [];
  if (!Array.isArray(added)) return fail("added_tokens", "must be an array", added);
  added.forEach((token, i) => checkAddedToken(token, (problem, found) => fail(`added_tokens[${i}]`, problem, found)));
  const preTokenizer = component("pre_tokenizer");
  return {
    ...value,
    added_tokens: added,
    normalizer: component("normalizer"),
    pre_tokenizer: preTokenizer === null ? null : correctedPreTokenizer(file, preTokenizer),
    post_processor: component("post_processor"),
    decoder,
    model: { ...model, type },
  };
}

function checkAddedToken(token: unknown, fail: (problem: string, found: unknown) => never): void {
  if (!isRecord(token)) return fail("must be an object", token);
  if (typeof token["content"] !== "string" || token["content"] === "") fail("must have a content", token);
  if (!isTokenId(token["id"])) fail(`must have an id from 0 to ${maxTokenId}`, token["id"]);
}

/** Token of each id, of the vocabulary and the added tokens. */
export function tokenList(file: string, json: TokenizerJson): (string | undefined)[] {
  const tokens: (string | undefined)[] = [];
  const put = (id: unknown, token: unknown, field: string) => {
    if (!isTokenId(id)) throw new ModelFileError(file, field, `must be from 0 to ${maxTokenId}`, id);
    if (typeof token !== "string") throw new ModelFileError(file, field, "must be a token's text", token);
    tokens[id] = token;
  };
  const { vocab, type } = json.model;
  if (type === "Unigram" && Array.isArray(vocab)) {
    vocab.forEach((entry, id) => put(id, Array.isArray(entry) ? entry[0] : entry, `model.vocab[${id}]`));
  } else if (isRecord(vocab)) {
    for (const [token, id] of Object.entries(vocab)) put(id, token, `model.vocab of ${token}`);
  } else throw new ModelFileError(file, "model.vocab", "must be an object, or a list for Unigram");
  for (const { id, content } of json.added_tokens) put(id, content, "added_tokens");
  return tokens;
}

/** How tokens are written and whether a text's first space is dropped, as the decoder says. */
export function decoderStyle(file: string, decoder: Component): { spelling: TokenSpelling; stripFirstSpace: boolean } {
  const parts = decoder.type === "Sequence" && Array.isArray(decoder["decoders"])
    ? decoder["decoders"].filter(isComponent)
    : [decoder];
  const find = (type: string) => parts.find((part) => part.type === type);
  if (find("ByteLevel") !== undefined) return { spelling: "byte_level", stripFirstSpace: false };
  const metaspace = find("Metaspace");
  if (metaspace !== undefined) {
    const isPrefixed = metaspace["add_prefix_space"] !== false && metaspace["prepend_scheme"] !== "never";
    return { spelling: "sentencepiece", stripFirstSpace: isPrefixed };
  }
  if (find("ByteFallback") !== undefined || find("Replace") !== undefined) {
    const strip = find("Strip");
    return { spelling: "sentencepiece", stripFirstSpace: strip !== undefined && Number(strip["start"]) > 0 };
  }
  const types = parts.map((part) => part.type).join(", ");
  throw new ModelFileError(file, "decoder", "must be ByteLevel, Metaspace, or Replace with ByteFallback", types);
}

/**
 * `@huggingface/tokenizers` 0.2.0 knows only ASCII digits in Digits, and JavaScript's white space (which has U+FEFF
 * and lacks U+0085) in ByteLevel; both are written as Split, which it translates faithfully. Behaviours of Split that
 * it takes for "Isolated" are refused.
 */
function correctedPreTokenizer(file: string, part: Component): Component {
  const split = (pattern: string): Component => ({
    type: "Split",
    pattern: { Regex: pattern },
    behavior: "Isolated",
    invert: false,
  });
  if (part.type === "Sequence" && Array.isArray(part["pretokenizers"])) {
    const parts = part["pretokenizers"].filter(isComponent).map((inner) => correctedPreTokenizer(file, inner));
    return { type: "Sequence", pretokenizers: parts };
  }
  if (part.type === "Digits") return split(part["individual_digits"] === true ? String.raw`\p{N}` : String.raw`\p{N}+`);
  if (part.type === "ByteLevel" && part["use_regex"] !== false && part["add_prefix_space"] !== true) {
    return { type: "Sequence", pretokenizers: [split(gpt2Pattern), { ...part, use_regex: false }] };
  }
  if (part.type === "Split") {
    const { behavior, pattern } = part;
    // A Gemma text has no space left once it is normalized, so that its Split does nothing.
    const isIdle = isRecord(pattern) && pattern["String"] === " ";
    if (behavior !== "Isolated" && behavior !== "Removed" && !isIdle) {
      throw new ModelFileError(file, "pre_tokenizer.behavior", "must be Isolated or Removed", behavior);
    }
  }
  return part;
}

function isTokenId(value: unknown): value is number {
  return typeof value === "number" && Number.isInteger(value) && value >= 0 && value < maxTokenId;
}

function isComponent(value: unknown): value is Component {
  return isRecord(value) && typeof value["type"] === "string";
}
