/**
 * A small reader of octavo.h: constants, enums, structs with their offsets by C's rules, function declarations.
 *
 * @module
 */

const HEADER = new URL("../../cuda/include/octavo.h", import.meta.url);
const TYPES: Record<string, { ffi: string; bytes: number }> = {
  int32_t: { ffi: "i32", bytes: 4 },
  uint32_t: { ffi: "u32", bytes: 4 },
  int64_t: { ffi: "i64", bytes: 8 },
  float: { ffi: "f32", bytes: 4 },
  double: { ffi: "f64", bytes: 8 },
  char: { ffi: "char", bytes: 1 },
};

export interface HeaderField {
  name: string;
  type: string;
  count: number;
  offsetBytes: number;
}

export interface HeaderStruct {
  fields: HeaderField[];
  sizeBytes: number;
}

export interface HeaderFunction {
  name: string;
  result: string;
  parameters: { declaration: string; type: string }[];
}

/** Reads the header once. */
export async function readHeader() {
  const text = (await Deno.readTextFile(HEADER)).replaceAll(/\/\*[\s\S]*?\*\//g, "");
  return {
    abiVersion: Number(text.match(/#define OCTAVO_ABI_VERSION (\d+)/)?.[1]),
    enums: new Map([...text.matchAll(/typedef enum (\w+) \{([^}]*)\}/g)].map((m) => [m[1]!, readEnum(m[2]!)])),
    structs: new Map([...text.matchAll(/typedef struct (\w+) \{([^}]*)\}/g)].map((m) => [m[1]!, readStruct(m[2]!)])),
    functions: [...text.matchAll(/OCTAVO_API ([\w *]+?)(octavo_\w+)\(([^)]*)\)/g)].map(readFunction),
  };
}

function readEnum(body: string): Map<string, number> {
  return new Map([...body.matchAll(/(\w+) = (\d+)/g)].map((m) => [m[1]!, Number(m[2])]));
}

function readStruct(body: string): HeaderStruct {
  let end = 0;
  let largest = 1;
  const fields = [...body.matchAll(/(\w+) (\w+)(?:\[(\d+)\])?;/g)].map((m) => {
    const type = TYPES[m[1]!]!;
    const count = Number(m[3] ?? 1);
    const offsetBytes = Math.ceil(end / type.bytes) * type.bytes;
    end = offsetBytes + type.bytes * count;
    largest = Math.max(largest, type.bytes);
    return { name: m[2]!, type: type.ffi, count, offsetBytes };
  });
  return { fields, sizeBytes: Math.ceil(end / largest) * largest };
}

function readFunction(match: RegExpMatchArray): HeaderFunction {
  const result = match[1]!.trim();
  const list = match[3]!.replaceAll(/\s+/g, " ").trim();
  const parameters = list === "void" ? [] : list.split(",").map((one) => one.trim());
  return {
    name: match[2]!,
    result: result === "void" ? "void" : result.includes("*") ? "pointer" : TYPES[result]!.ffi,
    parameters: parameters.map((declaration) => ({ declaration, type: parameterType(declaration) })),
  };
}

/** Handles are opaque pointers; every other pointer is a buffer of the caller's. */
function parameterType(declaration: string): string {
  if (/octavo_(model|engine|stream) \*/.test(declaration)) return "pointer";
  if (declaration.includes("*")) return "buffer";
  return TYPES[declaration.split(" ")[0]!]!.ffi;
}
