import { assertEquals, assertGreater } from "@std/assert";
import * as enums from "../../ffi/enums.ts";
import { ABI_VERSION } from "../../ffi/library_search.ts";
import { Struct } from "../../ffi/struct.ts";
import * as structs from "../../ffi/structs.ts";
import { SYMBOLS } from "../../ffi/symbols.ts";
import { readHeader } from "./_header.ts";

const header = await readHeader();

Deno.test("SYMBOLS has the header's functions in its order with its types", () => {
  const expected = header.functions.map(({ name, parameters, result }) => ({
    name,
    parameters: parameters.map((one) => one.type),
    result,
  }));
  const actual = Object.entries(SYMBOLS).map(([name, { parameters, result }]) => ({
    name,
    parameters: [...parameters] as string[],
    result: result as string,
  }));
  assertEquals(actual, expected);
  assertGreater(expected.length, 20);
});

Deno.test("SYMBOLS has each argument's C declaration beside it", async () => {
  const source = await Deno.readTextFile(new URL("../../ffi/symbols.ts", import.meta.url));
  const written = [...source.matchAll(/", \/\/ (.+)/g)].map((m) => m[1]);
  assertEquals(written, header.functions.flatMap((f) => f.parameters.map((one) => one.declaration)));
});

Deno.test("structs have the header's fields, offsets and sizes", () => {
  const ours = Object.values(structs).filter((one) => one instanceof Struct);
  assertEquals(ours.map((one) => one.cName).sort(), [...header.structs.keys()].sort());
  for (const struct of ours) {
    const expected = header.structs.get(struct.cName)!;
    assertEquals(
      struct.fields.map(({ name, type, offsetBytes }) => ({
        name,
        type: typeof type === "string" ? type : type[0],
        count: typeof type === "string" ? 1 : type[1],
        offsetBytes,
      })),
      expected.fields,
      struct.cName,
    );
    assertEquals(struct.sizeBytes, expected.sizeBytes, struct.cName);
  }
});

Deno.test("enums have the header's names and values", () => {
  const pairs = [
    ["octavo_status", "OCTAVO_", enums.STATUS],
    ["octavo_dtype", "OCTAVO_", enums.DTYPE],
    ["octavo_kv_dtype", "OCTAVO_KV_", enums.KV_DTYPE],
    ["octavo_kv_stats_mode", "OCTAVO_KV_STATS_", enums.KV_STATS_MODE],
    ["octavo_quantization", "OCTAVO_QUANTIZATION_", enums.QUANTIZATION],
    ["octavo_activation", "OCTAVO_", enums.ACTIVATION],
    ["octavo_role", "OCTAVO_ROLE_", enums.ROLE],
  ] as const;
  assertEquals(pairs.map(([name]) => name).sort(), [...header.enums.keys()].sort());
  for (const [name, prefix, ours] of pairs) {
    const actual = Object.entries(ours).map(([key, value]) => [prefix + key.toUpperCase(), value as number]);
    assertEquals(new Map(actual as [string, number][]), header.enums.get(name), name);
  }
});

Deno.test("ABI_VERSION is the header's", () => assertEquals(ABI_VERSION, header.abiVersion));

Deno.test("tables of KV dtypes have the length that MAX_KV_DTYPES says", () => {
  const tables = structs.ENGINE_CONFIG.fields.filter(({ name }) => name.startsWith("more_"));
  assertEquals(tables.map(({ type }) => type), [["i32", enums.MAX_KV_DTYPES - 1], ["i32", enums.MAX_KV_DTYPES - 1]]);
});
