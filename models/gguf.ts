/**
 * Reads the header of a GGUF file, version 2 or 3: metadata and where each tensor lies. Nothing in the file is
 * trusted: counts, lengths, shapes and offsets are checked against the file's size before they are used.
 *
 * Layout, little-endian (source: the GGUF specification in ggml's docs/gguf.md):
 *  1. magic "GGUF", u32 version, u64 tensor count, u64 metadata count
 *  2. metadata: string key, u32 type, value; an array is u32 element type, u64 count, elements
 *  3. tensors: string name, u32 number of dimensions, u64 dimensions (fastest first), u32 type, u64 offset
 *  4. padding to `general.alignment` (default 32), then the tensors' data; offsets count from here
 *
 * @module
 */

import { ByteReader, type ByteSource, withFile } from "./byte_source.ts";
import { ModelFileError } from "./errors.ts";
import { blockElements, dtypeBytes, ggmlName, ggufDtypes, isTensorDtype } from "./tensor_dtype.ts";
import type { TensorDtype } from "./types.ts";

/** Arrays of numbers stay typed arrays; booleans in arrays are bytes 0 and 1. 64-bit numbers may be bigints. */
export type GgufValue = string | number | bigint | boolean | readonly string[] | GgufNumbers;
export type GgufNumbers =
  | Uint8Array
  | Int8Array
  | Uint16Array
  | Int16Array
  | Uint32Array
  | Int32Array
  | Float32Array
  | Float64Array
  | BigUint64Array
  | BigInt64Array;

export interface GgufTensor {
  readonly name: string;
  readonly dtype: TensorDtype;
  /** Fastest first: `[cols, rows]` of a matrix. */
  readonly dims: readonly number[];
  /** From the start of the file. */
  readonly offsetBytes: number;
  readonly sizeBytes: number;
}

export interface GgufHeader {
  readonly path: string;
  readonly version: number;
  readonly metadata: ReadonlyMap<string, GgufValue>;
  readonly tensors: readonly GgufTensor[];
}

const magic = 0x46554747; // "GGUF"
const maxDims = 4;
const maxElements = 2 ** 53 - 1;

const valueType = {
  u8: 0,
  i8: 1,
  u16: 2,
  i16: 3,
  u32: 4,
  i32: 5,
  f32: 6,
  bool: 7,
  string: 8,
  array: 9,
  u64: 10,
  i64: 11,
  f64: 12,
};

/** Typed array of each number type; the element's size is its BYTES_PER_ELEMENT. */
const numberArrays: Readonly<Record<number, (buffer: ArrayBuffer) => GgufNumbers>> = {
  [valueType.u8]: (b) => new Uint8Array(b),
  [valueType.i8]: (b) => new Int8Array(b),
  [valueType.u16]: (b) => new Uint16Array(b),
  [valueType.i16]: (b) => new Int16Array(b),
  [valueType.u32]: (b) => new Uint32Array(b),
  [valueType.i32]: (b) => new Int32Array(b),
  [valueType.f32]: (b) => new Float32Array(b),
  [valueType.bool]: (b) => new Uint8Array(b),
  [valueType.u64]: (b) => new BigUint64Array(b),
  [valueType.i64]: (b) => new BigInt64Array(b),
  [valueType.f64]: (b) => new Float64Array(b),
};

/**
 * Reads a GGUF file's header.
 *
 * @throws {ModelFileError} When anything in it is not as the specification says.
 */
export function readGguf(path: string): GgufHeader {
  return withFile(path, parseGguf);
}

/** {@linkcode readGguf} on bytes from anywhere. */
export function parseGguf(source: ByteSource): GgufHeader {
  const reader = new ByteReader(source);
  const found = reader.u32("magic");
  if (found !== magic) reader.fail("magic", 'must be "GGUF"', `0x${found.toString(16).padStart(8, "0")}`);
  const version = reader.u32("version");
  if (version !== 2 && version !== 3) {
    const hint = version !== 0 && (version & 0xffff) === 0 ? " (little-endian; this file is big-endian)" : "";
    reader.fail("version", `must be 2 or 3${hint}`, version);
  }
  const numTensors = reader.u64("tensor count");
  const numKeys = reader.count("metadata count", 8 + 4 + 1);
  const metadata = readMetadata(reader, numKeys);
  const entries = readTensorEntries(reader, numTensors);
  const align = alignment(source.path, metadata);
  const dataOffset = Math.ceil(reader.offset / align) * align;
  return { path: source.path, version, metadata, tensors: placeTensors(source, entries, dataOffset, align) };
}

function readMetadata(reader: ByteReader, count: number): Map<string, GgufValue> {
  const metadata = new Map<string, GgufValue>();
  for (let i = 0; i < count; i++) {
    const key = reader.string(`metadata key ${i}`);
    if (key === "" || key.length > 65535) reader.fail(`metadata key ${i}`, "must have 1 to 65535 bytes", key);
    if (metadata.has(key)) reader.fail(`metadata key ${i}`, "must not repeat another", key);
    metadata.set(key, readValue(reader, key, reader.u32(`type of ${key}`)));
  }
  return metadata;
}

function readValue(reader: ByteReader, key: string, type: number): GgufValue {
  if (type === valueType.string) return reader.string(key);
  if (type === valueType.array) return readArray(reader, key);
  const make = numberArrays[type];
  if (make === undefined) return reader.fail(`type of ${key}`, "must be 0 to 12", type);
  const value = readNumbers(reader, key, make, 1)[0]!;
  if (type === valueType.bool) {
    if (value !== 0 && value !== 1) reader.fail(key, "must be a boolean, 0 or 1", value);
    return value === 1;
  }
  return Number.isSafeInteger(Number(value)) ? Number(value) : value;
}

function readArray(reader: ByteReader, key: string): GgufValue {
  const type = reader.u32(`element type of ${key}`);
  if (type === valueType.string) {
    const count = reader.count(`length of ${key}`, 8);
    const strings: string[] = [];
    for (let i = 0; i < count; i++) strings.push(reader.string(`${key}[${i}]`));
    return strings;
  }
  if (type === valueType.array) return reader.fail(key, "must not be an array of arrays");
  const make = numberArrays[type];
  if (make === undefined) return reader.fail(`element type of ${key}`, "must be 0 to 12", type);
  const count = reader.count(`length of ${key}`, make(new ArrayBuffer(0)).BYTES_PER_ELEMENT);
  return readNumbers(reader, key, make, count);
}

function readNumbers(
  reader: ByteReader,
  key: string,
  make: (buffer: ArrayBuffer) => GgufNumbers,
  count: number,
): GgufNumbers {
  // Deno runs on little-endian machines only, so the file's bytes are the array's.
  const width = make(new ArrayBuffer(0)).BYTES_PER_ELEMENT;
  return make(reader.bytes(count * width, key).buffer);
}

interface TensorEntry {
  readonly name: string;
  readonly dtype: TensorDtype;
  readonly dims: readonly number[];
  /** From the start of the data. */
  readonly offset: number;
  readonly sizeBytes: number;
}

function readTensorEntries(reader: ByteReader, count: number): TensorEntry[] {
  const most = Math.floor(reader.bytesLeft / (8 + 4 + 8 + 4 + 8));
  if (count > most) reader.fail("tensor count", `must be at most ${most} to fit into the file`, count);
  const entries: TensorEntry[] = [];
  for (let i = 0; i < count; i++) entries.push(readTensorEntry(reader, i));
  return entries;
}

function readTensorEntry(reader: ByteReader, index: number): TensorEntry {
  const name = reader.string(`name of tensor ${index}`);
  const field = `tensor ${name}`;
  const numDims = reader.u32(`${field}: number of dimensions`);
  if (numDims < 1 || numDims > maxDims) {
    reader.fail(`${field}: number of dimensions`, `must be 1 to ${maxDims}`, numDims);
  }
  const dims: number[] = [];
  let elements = 1;
  for (let d = 0; d < numDims; d++) {
    const dim = reader.u64(`${field}: dimension ${d}`);
    if (dim < 1 || dim > maxElements / elements) {
      reader.fail(`${field}: dimension ${d}`, "must be at least 1, with a product below 2^53", dim);
    }
    elements *= dim;
    dims.push(dim);
  }
  const dtype = ggmlName(reader.u32(`${field}: type`));
  if (!isTensorDtype(dtype)) {
    return reader.fail(`${field}: type`, `must be one of ${ggufDtypes.join(", ")}`, dtype);
  }
  if (dims[0]! % blockElements(dtype) !== 0) {
    reader.fail(`${field}: dimension 0`, `must be a multiple of ${blockElements(dtype)} for ${dtype}`, dims[0]);
  }
  const offset = reader.u64(`${field}: offset`);
  return { name, dtype, dims, offset, sizeBytes: dtypeBytes(dtype, elements) };
}

function alignment(path: string, metadata: ReadonlyMap<string, GgufValue>): number {
  const value = metadata.get("general.alignment") ?? 32;
  if (typeof value !== "number" || value < 1 || value > 1 << 30 || (value & (value - 1)) !== 0) {
    throw new ModelFileError(path, "general.alignment", "must be a power of two, at most 2^30", value);
  }
  return value;
}

/** Checks that the tensors lie inside the file, aligned, apart and under different names. */
function placeTensors(
  source: ByteSource,
  entries: readonly TensorEntry[],
  dataOffset: number,
  align: number,
): GgufTensor[] {
  const dataBytes = Math.max(0, source.sizeBytes - dataOffset);
  const names = new Set<string>();
  for (const { name, offset, sizeBytes } of entries) {
    const fail = (part: string, problem: string, value: unknown): never => {
      throw new ModelFileError(source.path, `tensor ${name}${part}`, problem, value);
    };
    if (names.has(name)) fail("", "must be there once", name);
    names.add(name);
    if (offset % align !== 0) fail(": offset", `must be a multiple of ${align}`, offset);
    if (sizeBytes > dataBytes || offset > dataBytes - sizeBytes) {
      fail(": offset", `with its ${sizeBytes} bytes must stay within the file's ${dataBytes} bytes of data`, offset);
    }
  }
  const byOffset = entries.toSorted((a, b) => a.offset - b.offset);
  byOffset.forEach((entry, i) => {
    const next = byOffset[i + 1];
    if (next !== undefined && entry.offset + entry.sizeBytes > next.offset) {
      const field = `tensor ${next.name}: offset`;
      throw new ModelFileError(source.path, field, `must not lie inside tensor ${entry.name}`, next.offset);
    }
  });
  return entries.map(({ offset, ...entry }) => ({ ...entry, offsetBytes: dataOffset + offset }));
}
