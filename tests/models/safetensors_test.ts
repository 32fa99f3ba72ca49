import { assert, assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import { ModelFileError } from "../../models/errors.ts";
import { readCheckpoint } from "../../models/hf_checkpoint.ts";
import { parseSafetensors } from "../../models/safetensors.ts";
import { dataPath, readJson, withTempFolder } from "./_fixtures.ts";

function fileOf(header: unknown, dataBytes: number, headerBytes?: bigint): Uint8Array {
  const json = new TextEncoder().encode(typeof header === "string" ? header : JSON.stringify(header));
  const bytes = new Uint8Array(8 + json.length + dataBytes);
  new DataView(bytes.buffer).setBigUint64(0, headerBytes ?? BigInt(json.length), true);
  bytes.set(json, 8);
  return bytes;
}

function parse(bytes: Uint8Array) {
  return parseSafetensors({
    path: "test.safetensors",
    sizeBytes: bytes.length,
    read: (offset, into) => into.set(bytes.subarray(offset, offset + into.length)),
  });
}

function assertFails(bytes: Uint8Array, field: string, part: string): void {
  const error = assertThrows(() => parse(bytes), ModelFileError, part);
  assertEquals(error.field, field);
}

const entry = (dtype: string, shape: unknown, begin: unknown, end: unknown) => ({
  dtype,
  shape,
  data_offsets: [begin, end],
});

Deno.test("parseSafetensors() gives tensors with their place in the file", () => {
  const header = { __metadata__: { format: "pt" }, b: entry("BF16", [2, 3], 4, 16), a: entry("F32", [1], 0, 4) };
  const start = 8 + JSON.stringify(header).length;
  assertEquals(parse(fileOf(header, 16)), [
    { name: "b", dtype: "BF16", shape: [2, 3], offsetBytes: start + 4, sizeBytes: 12 },
    { name: "a", dtype: "F32", shape: [1], offsetBytes: start, sizeBytes: 4 },
  ]);
});

Deno.test("parseSafetensors() refuses headers that lie", () => {
  const one = (...tensor: Parameters<typeof entry>) => fileOf({ t: entry(...tensor) }, 8);
  for (const length of [0n, 1n, 40n, 2n ** 31n, 2n ** 53n, 2n ** 64n - 1n]) {
    assertThrows(() => parse(fileOf({ t: entry("F32", [2], 0, 8) }, 8, length)), ModelFileError, "header");
  }
  assertFails(fileOf("[]", 0), "header", "must be a JSON object");
  assertFails(fileOf("{", 0), "header", "must be valid JSON");
  assertFails(fileOf({ t: 1 }, 0), "tensor t", "must be an object");
  assertFails(one("F4", [2], 0, 8), "tensor t: dtype", 'found "F4"');
  assertFails(one("F32", [2, -1], 0, 8), "tensor t: shape", "must be a list of sizes");
  assertFails(one("F32", [2.5], 0, 8), "tensor t: shape", "must be a list of sizes");
  assertFails(one("F32", "2", 0, 8), "tensor t: shape", "must be a list of sizes");
  assertFails(one("F32", [2 ** 40, 2 ** 40], 0, 8), "tensor t: shape", "must have fewer than 2^53 bytes");
  assertFails(one("F32", [3], 0, 8), "tensor t: data_offsets", "must be 12 bytes apart for F32 [3], found [0,8]");
  assertFails(one("F32", [2], 8, 0), "tensor t: data_offsets", "must be 8 bytes apart");
  assertFails(one("F32", [2], -4, 4), "tensor t: data_offsets", "must be two offsets");
  assertFails(
    one("F32", [1], 4, 8),
    "tensor t: data_offsets",
    "must begin where the tensor before it ends, at 0, found 4",
  );
  assertFails(one("F32", [1], 0, 4), "the file", "as its header says");
  assertFails(one("F32", [4], 0, 16), "the file", "as its header says");
  const overlap = { t: entry("F32", [2], 0, 8), u: entry("F32", [1], 4, 8) };
  assertFails(
    fileOf(overlap, 8),
    "tensor u: data_offsets",
    "must begin where the tensor before it ends, at 8, found 4",
  );
  // JSON.parse() keeps the last of two equal names: the first one's bytes are then a hole.
  const twice =
    '{"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"t":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}';
  assertFails(fileOf(twice, 8), "tensor t: data_offsets", "at 0, found 4");
});

Deno.test("parseSafetensors() refuses every truncated or longer file", () => {
  const bytes = fileOf({ t: entry("F32", [2], 0, 8) }, 8);
  for (let length = 0; length < bytes.length; length++) {
    assertThrows(() => parse(bytes.subarray(0, length)), ModelFileError);
  }
  assertFails(fileOf({ t: entry("F32", [2], 0, 8) }, 9), "the file", "as its header says");
});

Deno.test("parseSafetensors() parses or names what is wrong when bytes are changed at random", () => {
  const bytes = fileOf({ a: entry("F32", [2], 0, 8), b: entry("BF16", [3, 4], 8, 32) }, 24 + 8);
  const flips = fc.array(fc.tuple(fc.nat(bytes.length - 1), fc.nat(255)), { minLength: 1, maxLength: 4 });
  const check = (changes: [number, number][]) => {
    const changed = bytes.slice();
    for (const [at, value] of changes) changed[at] = value;
    try {
      for (const { offsetBytes, sizeBytes } of parse(changed)) assert(offsetBytes + sizeBytes <= changed.length);
    } catch (error) {
      if (!(error instanceof ModelFileError)) throw error;
    }
  };
  fc.assert(fc.property(flips, check), { seed: 20261125, numRuns: 3000 });
});

Deno.test("readCheckpoint() gives the same tensors from one file and from shards", () => {
  const whole = readCheckpoint(dataPath("tiny/base"));
  const sharded = readCheckpoint(dataPath("tiny/sharded"));
  assertEquals(sharded.paths.length, 3);
  const key = ({ name, dtype, shape }: typeof whole.tensors[number]) => `${name} ${dtype} ${shape}`;
  assertEquals(sharded.tensors.map(key).sort(), whole.tensors.map(key).sort());
  const map = readJson<{ weight_map: Record<string, string> }>("tiny/sharded/model.safetensors.index.json").weight_map;
  for (const { name, file } of sharded.tensors) assert(sharded.paths[file]!.endsWith(map[name]!));
});

Deno.test("readCheckpoint() refuses an index that lies or leads out of the folder", async () => {
  await withTempFolder((folder) => {
    const indexPath = `${folder}/model.safetensors.index.json`;
    const fails = (index: unknown, field: string, part: string) => {
      Deno.writeTextFileSync(indexPath, JSON.stringify(index));
      const error = assertThrows(() => readCheckpoint(folder), ModelFileError, part);
      assertEquals(error.field, field);
    };
    assertThrows(() => readCheckpoint(folder), ModelFileError, "weights are read from model.safetensors or");
    Deno.writeFileSync(`${folder}/a.safetensors`, fileOf({ t: entry("F32", [2], 0, 8) }, 8));
    Deno.writeFileSync(`${folder}/b.safetensors`, fileOf({ u: entry("F32", [2], 0, 8) }, 8));
    Deno.writeFileSync(`${folder}/c.safetensors`, fileOf({ t: entry("F32", [2], 0, 8) }, 8));
    for (
      const name of ["../a.safetensors", "/etc/a.safetensors", "x/a.safetensors", ".a.safetensors", "a.bin", "..", 3]
    ) {
      fails({ weight_map: { t: name } }, "weight_map of t", "must be the name of a .safetensors file beside it");
    }
    fails({}, "weight_map", "must be an object");
    fails({ weight_map: { t: "b.safetensors" } }, "weight_map of t", "must name the file that holds it");
    fails({ weight_map: { v: "a.safetensors" } }, "weight_map of v", "must name the file that holds it");
    fails({ weight_map: { t: "a.safetensors", u: "d.safetensors" } }, "the file", "must be there");
    fails({ weight_map: { t: "a.safetensors", v: "c.safetensors" } }, "tensor t", "is also in a.safetensors");
  });
});
