/**
 * Typed access to named values of a file (a GGUF's metadata, a JSON object); a missing or wrong value is an error that
 * names the file, the field, what it must be and what was found.
 *
 * @module
 */

import { ModelFileError } from "./errors.ts";
import type { GgufHeader } from "./gguf.ts";

/** Both ends included. */
export interface Range {
  readonly min: number;
  readonly max: number;
}

const maxInt32: Range = { min: 1, max: 2 ** 31 - 1 };

export class Fields {
  /** Path of the file. */
  readonly file: string;
  readonly #get: (key: string) => unknown;
  readonly #prefix: string;

  /**
   * @param get The value of a key; undefined or null where there is none.
   * @param prefix Stands before the keys in errors.
   */
  constructor(file: string, get: (key: string) => unknown, prefix = "") {
    this.file = file;
    this.#get = get;
    this.#prefix = prefix;
  }

  static ofGguf(header: GgufHeader): Fields {
    return new Fields(header.path, (key) => header.metadata.get(key));
  }

  static ofRecord(file: string, record: Readonly<Record<string, unknown>>, prefix = ""): Fields {
    return new Fields(file, (key) => Object.hasOwn(record, key) ? record[key] : undefined, prefix);
  }

  /** The same values with keys that all start with `prefix`. */
  under(prefix: string): Fields {
    return new Fields(this.file, (key) => this.#get(prefix + key), this.#prefix + prefix);
  }

  fail(key: string, problem: string, ...found: [] | [unknown]): never {
    throw new ModelFileError(this.file, this.#prefix + key, problem, ...found);
  }

  /** The value as it stands there; undefined when absent, null when the file says null. */
  get(key: string): unknown {
    return this.#get(key);
  }

  has(key: string): boolean {
    return (this.#get(key) ?? null) !== null;
  }

  /** The value of the first of these keys that has one. */
  firstOf(...keys: readonly string[]): string | undefined {
    return keys.find((key) => this.has(key));
  }

  string(key: string): string {
    return this.stringOr(key, null) ?? this.fail(key, "must be there");
  }

  stringOr<T>(key: string, otherwise: T): string | T {
    if (!this.has(key)) return otherwise;
    const value = this.#get(key);
    return typeof value === "string" ? value : this.fail(key, "must be a string", value);
  }

  booleanOr(key: string, otherwise: boolean): boolean {
    const value = this.#get(key) ?? otherwise;
    return typeof value === "boolean" ? value : this.fail(key, "must be a boolean", value);
  }

  number(key: string, range: Range): number {
    return this.numberOr(key, null, range) ?? this.fail(key, "must be there");
  }

  numberOr<T>(key: string, otherwise: T, { min, max }: Range): number | T {
    if (!this.has(key)) return otherwise;
    const value = this.#get(key);
    if (typeof value !== "number" || !(value >= min && value <= max)) {
      return this.fail(key, `must be a number from ${min} to ${max}`, value);
    }
    return value;
  }

  integer(key: string, range: Range = maxInt32): number {
    return this.integerOr(key, null, range) ?? this.fail(key, "must be there");
  }

  integerOr<T>(key: string, otherwise: T, { min, max }: Range = maxInt32): number | T {
    if (!this.has(key)) return otherwise;
    const value = this.#get(key);
    if (typeof value !== "number" || !Number.isInteger(value) || value < min || value > max) {
      return this.fail(key, `must be an integer from ${min} to ${max}`, value);
    }
    return value;
  }

  stringsOr<T>(key: string, otherwise: T): readonly string[] | T {
    if (!this.has(key)) return otherwise;
    const value = this.#get(key);
    return isStrings(value) ? value : this.fail(key, "must be a list of strings", value);
  }

  strings(key: string): readonly string[] {
    return this.stringsOr(key, null) ?? this.fail(key, "must be there");
  }

  /** A typed array of `length` numbers, or null where there is none. */
  numbersOr(key: string, length: number): ArrayLike<number> | null {
    if (!this.has(key)) return null;
    const value = this.#get(key);
    if (!isNumbers(value)) return this.fail(key, "must be a list of numbers", value);
    if (value.length !== length) this.fail(key, `must have ${length} entries`, value.length);
    return value;
  }

  /** A token's id below `vocabSize`, or null where the file names none. */
  tokenIdOr(key: string, vocabSize: number): number | null {
    return this.integerOr(key, null, { min: 0, max: vocabSize - 1 });
  }

  /** An object in the file; its fields are named `key.field` in errors. Null where there is none. */
  objectOr(key: string): Fields | null {
    if (!this.has(key)) return null;
    const value = this.#get(key);
    if (!isRecord(value)) return this.fail(key, "must be an object", value);
    return Fields.ofRecord(this.file, value, `${this.#prefix}${key}.`);
  }
}

export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value) && !ArrayBuffer.isView(value);
}

function isStrings(value: unknown): value is readonly string[] {
  return Array.isArray(value) && value.every((entry) => typeof entry === "string");
}

/** GGUF's arrays of 64-bit integers are left out: nothing that is read has them. */
function isNumbers(value: unknown): value is ArrayLike<number> {
  const is64Bit = value instanceof BigInt64Array || value instanceof BigUint64Array;
  return ArrayBuffer.isView(value) && !(value instanceof DataView) && !is64Bit;
}
