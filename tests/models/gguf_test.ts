import { assert, assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import type { ByteSource } from "../../models/byte_source.ts";
import { ModelFileError } from "../../models/errors.ts";
import { parseGguf } from "../../models/gguf.ts";
import { openGgufModel } from "../../models/gguf_model.ts";
import { openModel } from "../../models/open_model.ts";
import { type GgufSpec, type GgufTensorSpec, type MetadataValue, tinyGguf, writeGguf } from "./_gguf_writer.ts";
import { withTempFolder } from "./_fixtures.ts";

/** Bytes in memory; refuses reads beyond the end, and counts what is read. */
function sourceOf(bytes: Uint8Array): ByteSource & { readBytes: number } {
  return {
    path: "test.gguf",
    sizeBytes: bytes.length,
    readBytes: 0,
    read(offset, into) {
      assert(offset >= 0 && offset + into.length <= bytes.length, "a read beyond the end");
      this.readBytes += into.length;
      into.set(bytes.subarray(offset, offset + into.length));
    },
  };
}

function assertFails(bytes: Uint8Array, field: string, part: string): void {
  const error = assertThrows(() => parseGguf(sourceOf(bytes)), ModelFileError, part);
  assertEquals(error.field, field);
  assert(error.message.startsWith("Cannot read test.gguf: "), error.message);
}

const spec: GgufSpec = {
  metadata: [
    ["text", "caf\u00e9"],
    ["flag", true],
    ["count", { u32: 4_000_000_000 }],
    ["ratio", { f32: 0.5 }],
    ["names", { strings: ["a", "", "b"] }],
    ["types", { i32s: [1, -2] }],
  ],
  tensors: [
    { name: "x", dims: [3, 2] },
    { name: "y", dims: [64], type: 3 },
    { name: "z", dims: [5] },
  ],
};

Deno.test("parseGguf() reads metadata and tensors of versions 2 and 3", () => {
  for (const version of [2, 3]) {
    const bytes = writeGguf({ ...spec, version });
    const { metadata, tensors } = parseGguf(sourceOf(bytes));
    assertEquals(Object.fromEntries(metadata), {
      text: "caf\u00e9",
      flag: true,
      count: 4_000_000_000,
      ratio: 0.5,
      names: ["a", "", "b"],
      types: Int32Array.of(1, -2),
    });
    const data = bytes.length - 32 - 256 - 32;
    assertEquals(tensors, [
      { name: "x", dims: [3, 2], dtype: "F32", offsetBytes: data, sizeBytes: 24 },
      { name: "y", dims: [64], dtype: "Q4_1", offsetBytes: data + 32, sizeBytes: 40 },
      { name: "z", dims: [5], dtype: "F32", offsetBytes: data + 288, sizeBytes: 20 },
    ]);
  }
});

Deno.test("parseGguf() reads only the header of a large file", () => {
  const header = writeGguf({ ...spec, tensors: [] });
  const source = { ...sourceOf(header), sizeBytes: 2 ** 40 };
  source.read = function (offset, into) {
    this.readBytes += into.length;
    into.set(header.subarray(offset, offset + into.length));
  };
  assertEquals(parseGguf(source).metadata.size, 6);
  assert(source.readBytes <= 2 << 20);
});

Deno.test("parseGguf() refuses every truncated file", () => {
  const bytes = writeGguf(spec);
  // z's 20 bytes end 12 before the padded end.
  for (let length = 0; length < bytes.length - 12; length++) {
    assertThrows(() => parseGguf(sourceOf(bytes.subarray(0, length))), ModelFileError);
  }
  parseGguf(sourceOf(bytes.subarray(0, bytes.length - 12)));
});

Deno.test("parseGguf() refuses wrong magic, versions and big-endian files", () => {
  const bytes = writeGguf(spec);
  assertFails(bytes.with(0, 0x58), "magic", 'must be "GGUF"');
  assertFails(writeGguf({ ...spec, version: 1 }), "version", "must be 2 or 3, found 1");
  assertFails(writeGguf({ ...spec, version: 0x03000000 }), "version", "this file is big-endian");
});

Deno.test("parseGguf() refuses counts that the file cannot hold", () => {
  for (const count of [4n, 1000n, 2n ** 32n, 2n ** 53n - 1n, 2n ** 63n, 2n ** 64n - 1n]) {
    assertThrows(() => parseGguf(sourceOf(writeGguf({ ...spec, tensorCount: count }))), ModelFileError);
    assertThrows(() => parseGguf(sourceOf(writeGguf({ ...spec, metadataCount: count + 4n }))), ModelFileError);
  }
  assertFails(writeGguf({ ...spec, tensorCount: 1000n }), "tensor count", "to fit into the file, found 1000");
  assertFails(writeGguf({ ...spec, metadataCount: 1000n }), "metadata count", "to fit into the");
  assertFails(writeGguf({ ...spec, metadataCount: 2n ** 60n }), "metadata count", "must be below 2^53");
});

/** Offset of a text in the bytes. */
function find(bytes: Uint8Array, text: string): number {
  const at = new TextDecoder("latin1").decode(bytes).indexOf(text);
  assert(at >= 0);
  return at;
}

function withU64(bytes: Uint8Array, at: number, value: bigint): Uint8Array {
  const changed = bytes.slice();
  new DataView(changed.buffer).setBigUint64(at, value, true);
  return changed;
}

Deno.test("parseGguf() refuses lengths that lie, without allocating them", () => {
  const bytes = writeGguf(spec);
  const huge = [2n ** 31n, 2n ** 40n, 2n ** 53n - 1n, 2n ** 63n - 1n, 2n ** 64n - 1n];
  for (const value of huge) {
    const key = withU64(bytes, find(bytes, "text") - 8, value);
    assertThrows(() => parseGguf(sourceOf(key)), ModelFileError, "metadata key 0");
    const text = withU64(bytes, find(bytes, "caf") - 8, value);
    assertThrows(() => parseGguf(sourceOf(text)), ModelFileError, "test.gguf: text ");
    const strings = withU64(bytes, find(bytes, "names") + 5 + 8, value);
    assertThrows(() => parseGguf(sourceOf(strings)), ModelFileError, "length of names");
    const numbers = withU64(bytes, find(bytes, "types") + 5 + 8, value);
    assertThrows(() => parseGguf(sourceOf(numbers)), ModelFileError, "length of types");
  }
});

Deno.test("parseGguf() refuses values that are no values of their type", () => {
  const bytes = writeGguf(spec);
  assertFails(bytes.with(find(bytes, "flag") + 4 + 4, 2), "flag", "must be a boolean, 0 or 1, found 2");
  assertFails(bytes.with(find(bytes, "flag") + 4, 13), "type of flag", "must be 0 to 12, found 13");
  assertFails(bytes.with(find(bytes, "types") + 5 + 4, 9), "types", "must not be an array of arrays");
  assertFails(bytes.with(find(bytes, "caf"), 0xff), "text", "must be valid UTF-8");
  const twice: GgufSpec = { ...spec, metadata: [["k", true], ["k", true]] };
  assertFails(writeGguf(twice), "metadata key 1", 'must not repeat another, found "k"');
  for (const value of [0, 3, 48, 2 ** 31]) {
    const bad: GgufSpec = { ...spec, metadata: [["general.alignment", { u32: value }]] };
    assertFails(writeGguf(bad), "general.alignment", `must be a power of two, at most 2^30, found ${value}`);
  }
});

Deno.test("parseGguf() refuses tensors whose shape, type or place lies", () => {
  const only = (tensor: Partial<GgufTensorSpec>): Uint8Array =>
    writeGguf({ metadata: [], tensors: [{ name: "t", dims: [64], ...tensor }] });
  assertFails(only({ dims: [] }), "tensor t: number of dimensions", "must be 1 to 4, found 0");
  assertFails(only({ dims: [1, 1, 1, 1, 1] }), "tensor t: number of dimensions", "must be 1 to 4, found 5");
  assertFails(only({ dims: [0] }), "tensor t: dimension 0", "must be at least 1");
  assertFails(only({ dims: [2n ** 32n, 2n ** 32n] }), "tensor t: dimension 1", "with a product below 2^53");
  // 2^64 elements in all: 0 in 64-bit arithmetic.
  assertFails(only({ dims: [2n ** 22n, 2n ** 22n, 2n ** 20n] }), "tensor t: dimension 2", "with a product below 2^53");
  assertFails(only({ dims: [2n ** 63n] }), "tensor t: dimension 0", "must be below 2^53");
  assertFails(only({ dims: [2n ** 51n] }), "tensor t: offset", `with its ${2 ** 53} bytes must stay within`);
  assertFails(only({ type: 16 }), "tensor t: type", 'found "IQ2_XXS"');
  assertFails(only({ type: 4 }), "tensor t: type", "must be one of F32, F16");
  assertFails(only({ dims: [48], type: 2 }), "tensor t: dimension 0", "must be a multiple of 32 for Q4_0, found 48");
  assertFails(only({ offset: 16n }), "tensor t: offset", "must be a multiple of 32, found 16");
  assertFails(only({ offset: 32n }), "tensor t: offset", "must stay within the file's 256 bytes of data, found 32");
  assertFails(only({ offset: 2n ** 53n - 32n }), "tensor t: offset", "must stay within");
  assertFails(only({ offset: 2n ** 64n - 32n }), "tensor t: offset", "must be below 2^53");
  const two = (tensors: GgufTensorSpec[]) => writeGguf({ metadata: [], tensors });
  assertFails(two([{ name: "t", dims: [8] }, { name: "t", dims: [8] }]), "tensor t", "must be there once");
  const inside = two([{ name: "t", dims: [64] }, { name: "u", dims: [8], offset: 32n }]);
  assertFails(inside, "tensor u: offset", "must not lie inside tensor t, found 32");
});

Deno.test("openGgufModel() opens a model or names what is wrong when bytes are changed at random", async () => {
  const bytes = writeGguf(tinyGguf());
  await withTempFolder((folder) => {
    const path = `${folder}/tiny.gguf`;
    const flips = fc.array(fc.tuple(fc.nat(bytes.length - 1), fc.nat(255)), { minLength: 1, maxLength: 4 });
    const check = (changes: [number, number][]) => {
      const changed = bytes.slice();
      for (const [at, value] of changes) changed[at] = value;
      Deno.writeFileSync(path, changed);
      try {
        openGgufModel(path);
      } catch (error) {
        if (!(error instanceof ModelFileError)) throw error;
        assertEquals(error.file, path);
        assert(error.field !== "");
      }
    };
    fc.assert(fc.property(flips, check), { seed: 20261125, numRuns: 500 });
  });
});

Deno.test("openGgufModel() reads a whole model", async () => {
  await withTempFolder(async (folder) => {
    const path = `${folder}/Tiny-2L.Q4_K_M.gguf`;
    Deno.writeFileSync(path, writeGguf(tinyGguf()));
    const model = openGgufModel(path);
    assertEquals(model.name, "Tiny-2L");
    assertEquals(model.paths, [path]);
    assertEquals(model.eosTokenIds, [0, 4]);
    assertEquals(model.tokenizer.encode("ab<|im_end|>"), [3, 4]);
    assertEquals(model.chatTemplate!.render([{ role: "user", content: "ab" }]), "ab<|im_end|>");
    const heads = (role: string) => model.tensors.find((tensor) => tensor.role === role)!.interleavedHeads;
    assertEquals([heads("q_proj"), heads("k_proj"), heads("v_proj")], [4, 2, 0]);
    assertEquals((await openModel(folder)).source, path);
    Deno.writeTextFileSync(`${folder}/config.json`, "{}");
    assertEquals((await openModel(folder)).source, path);
    Deno.writeFileSync(path, writeGguf(tinyGguf("qwen3")));
    assertEquals(openGgufModel(path).tensors.every((tensor) => tensor.interleavedHeads === 0), true);
  });
});

Deno.test("openGgufModel() names field and value when metadata or tensors do not fit", async () => {
  await withTempFolder((folder) => {
    const path = `${folder}/tiny.gguf`;
    const fails = (changed: GgufSpec, field: string, part: string) => {
      Deno.writeFileSync(path, writeGguf(changed));
      const error = assertThrows(() => openGgufModel(path), ModelFileError, part);
      assertEquals(error.field, field);
    };
    const setting = (key: string, value: MetadataValue | null, part: string) =>
      fails(tinyGguf("llama", { [key]: value }), key, part);
    setting("general.architecture", "mamba", 'must be one of llama, qwen2, qwen3, gemma2, gemma3, found "mamba"');
    setting("llama.block_count", { u32: 0 }, "must be an integer from 1 to 4096, found 0");
    setting("llama.block_count", { u32: 4_000_000_000 }, "found 4000000000");
    setting("llama.block_count", null, "must be there");
    setting("llama.embedding_length", "32", "must be an integer");
    setting("llama.attention.head_count_kv", { u32: 3 }, "must divide the 4 query heads, found 3");
    setting("llama.attention.head_count_kv", { i32s: [2, 1] }, "must be the same in all layers");
    setting("llama.attention.key_length", { u32: 12 }, "must be a multiple of 8, at most 256, found 12");
    setting("llama.attention.value_length", { u32: 16 }, "must be the head size 8, found 16");
    setting("llama.rope.dimension_count", { u32: 4 }, "must be the head size 8, found 4");
    setting("llama.rope.scaling.type", "longrope", "must be none, linear or yarn");
    setting("llama.rope.freq_base", { f32: NaN }, "must be a number");
    setting("llama.expert_count", { u32: 8 }, "mixtures of experts are not supported, found 8");
    setting("llama.vocab_size", { u32: 7 }, "must be the 6 rows of token_embd.weight, found 7");
    setting("tokenizer.ggml.eos_token_id", { u32: 6 }, "must be an integer from 0 to 5, found 6");
    setting("split.count", { u32: 3 }, "must be 1: files in several parts are not supported, found 3");

    const { metadata, tensors } = tinyGguf();
    const tensor = (name: string, change: Partial<GgufTensorSpec> | null, field: string, part: string) => {
      const changed = tensors.flatMap((spec) =>
        spec.name !== name ? [spec] : change === null ? [] : [{ ...spec, ...change }]
      );
      fails({ metadata, tensors: changed }, field, part);
    };
    tensor("output_norm.weight", null, "the output_norm tensor", "is missing");
    tensor("blk.1.ffn_up.weight", null, "the up_proj tensor of layer 1", "is missing");
    tensor("token_embd.weight", null, "tensor token_embd.weight", "must be a matrix");
    tensor(
      "blk.0.attn_k.weight",
      { dims: [32, 8] },
      "tensor blk.0.attn_k.weight",
      "must have the shape [16,32], found [8,32]",
    );
    tensor(
      "blk.0.attn_norm.weight",
      { name: "blk.0.ssm_a" },
      "tensor blk.0.ssm_a",
      "is not known to architecture llama",
    );
    tensor(
      "blk.1.attn_norm.weight",
      { name: "blk.2.attn_norm.weight" },
      "tensor blk.2.attn_norm.weight",
      "one of the 2 layers",
    );
    tensor("blk.1.attn_norm.weight", { type: 8 }, "tensor blk.1.attn_norm.weight", "must be one of F32, F16, BF16");
  });
});
