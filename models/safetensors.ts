/**
 * Reads headers of safetensors files: what tensors there are and where they lie. Nothing in a file is trusted.
 *
 * Layout (source: the format's description in huggingface/safetensors):
 *  1. u64 little-endian: bytes of the header
 *  2. the header, a JSON object: name -> {dtype, shape, data_offsets: [begin, end]}, and "__metadata__"
 *  3. the data; offsets count from here; tensors cover it without holes or overlaps
 *
 * @module
 */

import { ByteReader, type ByteSource, withFile } from "./byte_source.ts";
import { ModelFileError } from "./errors.ts";
import { isRecord } from "./fields.ts";

export interface SafetensorsTensor {
  readonly name: string;
  /** As the file spells it, for example "BF16" or "F8_E4M3". */
  readonly dtype: string;
  /** Slowest first. */
  readonly shape: readonly number[];
  /** From the start of the file. */
  readonly offsetBytes: number;
  readonly sizeBytes: number;
}

/** The reference implementation's own limit. */
const maxHeaderBytes = 100_000_000;

const elementBytes: Readonly<Record<string, number>> = {
  BOOL: 1,
  U8: 1,
  I8: 1,
  F8_E5M2: 1,
  F8_E4M3: 1,
  F8_E8M0: 1,
  I16: 2,
  U16: 2,
  F16: 2,
  BF16: 2,
  I32: 4,
  U32: 4,
  F32: 4,
  I64: 8,
  U64: 8,
  F64: 8,
};

/**
 * Reads the header of a safetensors file.
 *
 * @throws {ModelFileError} When anything in it is not as the format says.
 */
export function readSafetensors(path: string): SafetensorsTensor[] {
  return withFile(path, parseSafetensors);
}

/** {@linkcode readSafetensors} on bytes from anywhere. */
export function parseSafetensors(source: ByteSource): SafetensorsTensor[] {
  const reader = new ByteReader(source);
  const headerBytes = reader.u64("header length");
  const most = Math.min(reader.bytesLeft, maxHeaderBytes);
  if (headerBytes > most) reader.fail("header length", `must be at most ${most}`, headerBytes);
  const header = parseHeader(reader, reader.bytes(headerBytes, "header"));
  const dataOffset = reader.offset;
  const tensors: SafetensorsTensor[] = [];
  for (const [name, entry] of Object.entries(header)) {
    if (name !== "__metadata__") tensors.push(tensorOf(reader, name, entry, dataOffset));
  }
  checkCover(source, tensors, dataOffset);
  return tensors;
}

function parseHeader(reader: ByteReader, bytes: Uint8Array): Record<string, unknown> {
  let header: unknown;
  try {
    header = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch {
    reader.fail("header", "must be valid JSON");
  }
  return isRecord(header) ? header : reader.fail("header", "must be a JSON object", header);
}

function tensorOf(reader: ByteReader, name: string, entry: unknown, dataOffset: number): SafetensorsTensor {
  const field = `tensor ${name}`;
  if (!isRecord(entry)) return reader.fail(field, "must be an object", entry);
  const { dtype, shape, data_offsets: offsets } = entry;
  if (typeof dtype !== "string" || !Object.hasOwn(elementBytes, dtype)) {
    return reader.fail(`${field}: dtype`, `must be one of ${Object.keys(elementBytes).join(", ")}`, dtype);
  }
  if (!isSizes(shape)) return reader.fail(`${field}: shape`, "must be a list of sizes", shape);
  if (!isSizes(offsets) || offsets.length !== 2) {
    return reader.fail(`${field}: data_offsets`, "must be two offsets", offsets);
  }
  const [begin, end] = offsets as [number, number];
  const sizeBytes = shape.reduce((product, size) => product * size, elementBytes[dtype]!);
  if (!Number.isSafeInteger(sizeBytes)) reader.fail(`${field}: shape`, "must have fewer than 2^53 bytes", shape);
  if (end - begin !== sizeBytes) {
    reader.fail(
      `${field}: data_offsets`,
      `must be ${sizeBytes} bytes apart for ${dtype} ${JSON.stringify(shape)}`,
      offsets,
    );
  }
  return { name, dtype, shape, offsetBytes: dataOffset + begin, sizeBytes };
}

/** Tensors must follow one another to the end of the file: so none overlaps, and none is given twice. */
function checkCover(source: ByteSource, tensors: readonly SafetensorsTensor[], dataOffset: number): void {
  let end = dataOffset;
  const inOrder = tensors.toSorted((a, b) => a.offsetBytes - b.offsetBytes || a.sizeBytes - b.sizeBytes);
  for (const { name, offsetBytes, sizeBytes } of inOrder) {
    if (offsetBytes !== end) {
      const problem = `must begin where the tensor before it ends, at ${end - dataOffset}`;
      throw new ModelFileError(source.path, `tensor ${name}: data_offsets`, problem, offsetBytes - dataOffset);
    }
    end += sizeBytes;
  }
  if (end !== source.sizeBytes) {
    throw new ModelFileError(source.path, "the file", `must have ${end} bytes as its header says`, source.sizeBytes);
  }
}

function isSizes(value: unknown): value is readonly number[] {
  return Array.isArray(value) && value.every((size) => Number.isSafeInteger(size) && size >= 0);
}
