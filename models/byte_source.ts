/**
 * Random access to a file's bytes for header readers: a model file is never read as a whole.
 *
 * @module
 */

import { ModelFileError } from "./errors.ts";

/** Bytes with a known size. */
export interface ByteSource {
  /** For error messages. */
  readonly path: string;
  readonly sizeBytes: number;
  /** Fills all of `into` from `offset`, which the caller has checked against `sizeBytes`. */
  read(offset: number, into: Uint8Array): void;
}

/** Opens a file, hands it to `use`, closes it. */
export function withFile<T>(path: string, use: (source: ByteSource) => T): T {
  using file = Deno.openSync(path);
  const info = file.statSync();
  if (!info.isFile) throw new ModelFileError(path, "the path", "must be a regular file");
  return use({
    path,
    sizeBytes: info.size,
    read(offset, into) {
      file.seekSync(offset, Deno.SeekMode.Start);
      for (let filled = 0; filled < into.length;) {
        const count = file.readSync(into.subarray(filled));
        if (count === null) throw new ModelFileError(path, "the file", `became shorter than ${info.size} bytes`);
        filled += count;
      }
    },
  });
}

const chunkBytes = 1 << 20;

/**
 * Reads little-endian values one after another. Every read is checked against what is left of the source before
 * anything is allocated, so a lying length costs nothing.
 */
export class ByteReader {
  readonly #source: ByteSource;
  readonly #text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  #chunk = new Uint8Array(0);
  #view = new DataView(this.#chunk.buffer);
  /** Offset of the chunk in the source, and of the next byte in the chunk. */
  #chunkOffset = 0;
  #next = 0;

  constructor(source: ByteSource) {
    this.#source = source;
  }

  /** Offset of the next byte in the source. */
  get offset(): number {
    return this.#chunkOffset + this.#next;
  }

  get bytesLeft(): number {
    return this.#source.sizeBytes - this.offset;
  }

  fail(field: string, problem: string, ...found: [] | [unknown]): never {
    throw new ModelFileError(this.#source.path, field, problem, ...found);
  }

  u8(field: string): number {
    return this.#view.getUint8(this.#take(1, field));
  }

  u32(field: string): number {
    const at = this.#take(4, field);
    return this.#view.getUint32(at, true);
  }

  /** An unsigned 64-bit value that must be a safe integer. */
  u64(field: string): number {
    const at = this.#take(8, field);
    const low = this.#view.getUint32(at, true);
    const high = this.#view.getUint32(at + 4, true);
    if (high >= 1 << 21) this.fail(field, "must be below 2^53", this.#view.getBigUint64(at, true));
    return high * 2 ** 32 + low;
  }

  /** A count of things that take at least `minBytes` each in what is left of the source. */
  count(field: string, minBytes: number): number {
    const count = this.u64(field);
    const most = Math.floor(this.bytesLeft / minBytes);
    if (count > most) this.fail(field, `must be at most ${most} to fit into the ${this.bytesLeft} bytes left`, count);
    return count;
  }

  /** A copy of the next `length` bytes. */
  bytes(length: number, field: string): Uint8Array<ArrayBuffer> {
    const at = this.#take(length, field);
    return this.#chunk.slice(at, at + length);
  }

  /** UTF-8 with a 64-bit length in front. */
  string(field: string): string {
    const length = this.u64(field);
    const at = this.#take(length, field);
    try {
      return this.#text.decode(this.#chunk.subarray(at, at + length));
    } catch {
      return this.fail(field, "must be valid UTF-8");
    }
  }

  /** Makes the next `length` bytes contiguous in the chunk, steps over them, returns where they start. */
  #take(length: number, field: string): number {
    if (length > this.bytesLeft) {
      this.fail(field, `needs ${length} bytes at offset ${this.offset}, but only ${this.bytesLeft} are left`);
    }
    if (this.#next + length > this.#chunk.length) {
      const offset = this.offset;
      const chunk = new Uint8Array(Math.min(Math.max(length, chunkBytes), this.#source.sizeBytes - offset));
      this.#source.read(offset, chunk);
      this.#chunk = chunk;
      this.#view = new DataView(chunk.buffer);
      this.#chunkOffset = offset;
      this.#next = 0;
    }
    const at = this.#next;
    this.#next += length;
    return at;
  }
}
