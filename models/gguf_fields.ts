/**
 * Typed access to a GGUF file's metadata; a missing or wrong value is an error that names the file and the key.
 *
 * @module
 */

import { ModelFileError } from "./errors.ts";
import type { GgufHeader, GgufValue } from "./gguf.ts";

export class GgufFields {
  readonly #header: GgufHeader;

  constructor(header: GgufHeader) {
    this.#header = header;
  }

  get file(): string {
    return this.#header.path;
  }

  fail(key: string, problem: string, ...found: [] | [unknown]): never {
    throw new ModelFileError(this.file, key, problem, ...found);
  }

  get(key: string): GgufValue | undefined {
    return this.#header.metadata.get(key);
  }

  string(key: string): string {
    return this.stringOr(key, null) ?? this.fail(key, "must be there");
  }

  stringOr<T>(key: string, otherwise: T): string | T {
    const value = this.get(key);
    if (value === undefined) return otherwise;
    return typeof value === "string" ? value : this.fail(key, "must be a string", value);
  }

  booleanOr(key: string, otherwise: boolean): boolean {
    const value = this.get(key) ?? otherwise;
    return typeof value === "boolean" ? value : this.fail(key, "must be a boolean", value);
  }

  numberOr<T>(key: string, otherwise: T): number | T {
    const value = this.get(key);
    if (value === undefined) return otherwise;
    if (typeof value !== "number" || !Number.isFinite(value)) return this.fail(key, "must be a number", value);
    return value;
  }

  strings(key: string): readonly string[] {
    const value = this.get(key);
    if (value === undefined) return this.fail(key, "must be there");
    return isStrings(value) ? value : this.fail(key, "must be a list of strings", value);
  }

  /** A list of `length` numbers, or null where there is none. */
  numbersOr(key: string, length: number): ArrayLike<number> | null {
    const value = this.get(key);
    if (value === undefined) return null;
    if (!ArrayBuffer.isView(value) || value instanceof BigInt64Array || value instanceof BigUint64Array) {
      return this.fail(key, "must be a list of numbers", value);
    }
    if (value.length !== length) this.fail(key, `must have ${length} entries`, value.length);
    return value;
  }

  /** A token's id below `vocabSize`, or null where the file names none. */
  tokenIdOr(key: string, vocabSize: number): number | null {
    const id = this.numberOr(key, null);
    if (id === null) return null;
    if (!Number.isInteger(id) || id < 0 || id >= vocabSize) {
      this.fail(key, `must be a token id from 0 to ${vocabSize - 1}`, id);
    }
    return id;
  }
}

function isStrings(value: GgufValue): value is readonly string[] {
  return Array.isArray(value);
}
