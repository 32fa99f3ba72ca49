import { assert, assertEquals, assertThrows } from "@std/assert";
import { ModelFileError } from "../../models/errors.ts";
import { readGguf } from "../../models/gguf.ts";
import { ggufTokenizerJson } from "../../models/gguf_tokenizer.ts";
import { createTokenizer } from "../../models/tokenizer.ts";
import { readJson, unpackSmollm2, withTempFolder } from "./_fixtures.ts";

type Json = Record<string, unknown>;

function tinyJson(changes: Json = {}): Json {
  return { ...readJson<Json>("tiny/base/tokenizer.json"), ...changes };
}

function tokenizerOf(json: unknown, vocabSize = 320) {
  return createTokenizer({ file: "tokenizer.json", json, bosToken: "<|im_start|>", vocabSize });
}

Deno.test("createTokenizer() reads a tokenizer.json", () => {
  const tokenizer = tokenizerOf(tinyJson());
  assertEquals([tokenizer.vocabSize, tokenizer.bosTokenId], [320, 1]);
  const text = "def f(x):\n    return '\u00e9 \u4f60 \u{1F600}'<|im_end|>";
  const ids = tokenizer.encode(text);
  assertEquals(ids.at(-1), 2);
  assertEquals(tokenizer.decode(ids, { skipSpecialTokens: false }), text);
  assertEquals(tokenizer.decode(ids), text.replace("<|im_end|>", ""));
  assertEquals(tokenizer.idToToken(2), "<|im_end|>");
  assertEquals(tokenizer.idToToken(320), undefined);
  assertEquals(tokenizer.encode(""), []);
  assertEquals(tokenizer.decode([]), "");
});

Deno.test("createTokenizer() lays token bytes into shared memory", () => {
  const { table } = tokenizerOf(tinyJson(), 330);
  for (const array of [table.bytes, table.offsets, table.flags]) assert(array.buffer instanceof SharedArrayBuffer);
  assertEquals([table.offsets.length, table.flags.length, table.offsets[0]], [331, 330, 0]);
  assertEquals(table.offsets[330], table.bytes.length);
  assertEquals(Array.from(table.flags.slice(0, 4)), [1, 1, 1, 0]);
  const bytesOf = (id: number) => Array.from(table.bytes.slice(table.offsets[id], table.offsets[id + 1]));
  assertEquals(String.fromCharCode(...bytesOf(1)), "<|im_start|>");
  // The 256 single-byte tokens come next, in the order of their characters.
  const single = Array.from({ length: 256 }, (_, i) => bytesOf(3 + i));
  assertEquals(single.flat().sort((a, b) => a - b), Array.from({ length: 256 }, (_, byte) => byte));
  assertEquals(bytesOf(329), []);
});

Deno.test("createTokenizer() cuts as the reference does at digits and white space beyond ASCII", async () => {
  const { encode } = readJson<{ encode: [string, number[]][] }>("smollm2/odd_strings.json");
  await withTempFolder(async (folder) => {
    const built = ggufTokenizerJson(readGguf(await unpackSmollm2(folder)));
    const pre_tokenizer = {
      type: "Sequence",
      pretokenizers: [{ type: "Digits", individual_digits: true }, { type: "ByteLevel", add_prefix_space: false }],
    };
    for (const json of [built.json, { ...built.json, pre_tokenizer }]) {
      const tokenizer = createTokenizer({ file: "tokenizer.json", bosToken: null, json, vocabSize: 49_152 });
      for (const [text, ids] of encode) assertEquals(tokenizer.encode(text), ids, JSON.stringify(text));
    }
  });
});

Deno.test("createTokenizer() drops added tokens beyond the model's vocabulary", () => {
  const added = readJson<{ added_tokens: Json[] }>("tiny/base/tokenizer.json").added_tokens;
  const image = { id: 320, content: "<image>", special: true, normalized: false };
  const tokenizer = tokenizerOf(tinyJson({ added_tokens: [...added, image] }));
  assert(tokenizer.encode("<image>").every((id) => id < 320));
  assertEquals(tokenizerOf(tinyJson({ added_tokens: [...added, image] }), 321).encode("<image>"), [320]);
});

Deno.test("createTokenizer() names file and field when a tokenizer.json is damaged or of a kind not known", () => {
  const model = readJson<{ model: Json }>("tiny/base/tokenizer.json").model;
  const cases: [unknown, string][] = [
    [null, "tokenizer"],
    [[], "tokenizer"],
    [tinyJson({ model: null }), "model"],
    [tinyJson({ model: { ...model, type: "WordPiece" } }), "model.type"],
    [tinyJson({ model: { ...model, vocab: [] } }), "model.vocab"],
    [tinyJson({ model: { ...model, vocab: { a: -1 } } }), "model.vocab of a"],
    [tinyJson({ model: { ...model, vocab: { a: 2 ** 31 } } }), "model.vocab of a"],
    [tinyJson({ model: { ...model, vocab: { a: 400 } } }), "model.vocab"],
    [tinyJson({ model: { ...model, merges: 3 } }), "tokenizer"],
    [tinyJson({ added_tokens: {} }), "added_tokens"],
    [tinyJson({ added_tokens: [{ id: 1 }] }), "added_tokens[0]"],
    [tinyJson({ added_tokens: [{ id: 1e9, content: "x" }] }), "added_tokens[0]"],
    [tinyJson({ decoder: null }), "decoder"],
    [tinyJson({ decoder: { type: "WordPiece" } }), "decoder"],
    [tinyJson({ normalizer: { type: "None such" } }), "tokenizer"],
    [
      tinyJson({ pre_tokenizer: { type: "Split", pattern: { Regex: "x" }, behavior: "Contiguous" } }),
      "pre_tokenizer.behavior",
    ],
    [tinyJson({ pre_tokenizer: { type: "Split", pattern: { Regex: "(" }, behavior: "Isolated" } }), "tokenizer"],
  ];
  for (const [json, field] of cases) {
    const error = assertThrows(() => tokenizerOf(json), ModelFileError);
    assertEquals([error.file, error.field], ["tokenizer.json", field], error.message);
  }
});
