/**
 * C structs as field tables: one description gives size, offsets, encoding and decoding, and is what the ABI test
 * compares with octavo.h. Structs hold 4- and 8-byte fields and char arrays, in native (little-endian) order.
 *
 * @module
 */

/** A scalar, an array `[scalar, count]`, or a NUL-terminated UTF-8 char array `["char", bytes]`. */
export type FieldType = Scalar | readonly [Scalar | "char", number];
type Scalar = "i32" | "u32" | "i64" | "f32" | "f64";

type FieldValue<T extends FieldType> = T extends readonly ["char", number] ? string
  : T extends readonly [Scalar, number] ? readonly number[]
  : number;

/** The values of a struct's fields. */
export type StructValues<F extends Record<string, FieldType>> = { [K in keyof F]: FieldValue<F[K]> };

/** A field's place. */
export interface FieldLayout {
  readonly name: string;
  readonly type: FieldType;
  readonly offsetBytes: number;
}

const SCALAR_BYTES = { i32: 4, u32: 4, i64: 8, f32: 4, f64: 8, char: 1 } as const;

/** One struct of octavo.h. */
export class Struct<const F extends Record<string, FieldType>> {
  readonly fields: readonly FieldLayout[];
  readonly sizeBytes: number;

  constructor(readonly cName: string, fields: F) {
    let end = 0;
    let largest = 1;
    this.fields = Object.entries(fields).map(([name, type]) => {
      const scalar = typeof type === "string" ? type : type[0];
      const count = typeof type === "string" ? 1 : type[1];
      const bytes = SCALAR_BYTES[scalar];
      largest = Math.max(largest, bytes);
      const offsetBytes = Math.ceil(end / bytes) * bytes;
      end = offsetBytes + bytes * count;
      return { name, type, offsetBytes };
    });
    this.sizeBytes = Math.ceil(end / largest) * largest;
  }

  /**
   * @returns The struct's bytes.
   * @throws {RangeError} A value does not fit its field; the message names struct, field and value.
   */
  encode(values: StructValues<F>): Uint8Array<ArrayBuffer> {
    return this.encodeAll([values]);
  }

  /** Encodes an array of structs. */
  encodeAll(all: readonly StructValues<F>[]): Uint8Array<ArrayBuffer> {
    const bytes = new Uint8Array(this.sizeBytes * all.length);
    const view = new DataView(bytes.buffer);
    all.forEach((values, index) => {
      for (const { name, type, offsetBytes } of this.fields) {
        const at = index * this.sizeBytes + offsetBytes;
        const value = values[name as keyof F] as number | string | readonly number[];
        if (typeof value === "string") {
          new TextEncoder().encodeInto(value, bytes.subarray(at, at + (type[1] as number) - 1));
        } else {
          const scalar = (typeof type === "string" ? type : type[0]) as Scalar;
          [value].flat().forEach((one, i) => this.#set(view, name, scalar, at + i * SCALAR_BYTES[scalar], one));
        }
      }
    });
    return bytes;
  }

  /** Reads one struct back. */
  decode(bytes: Uint8Array): StructValues<F> {
    const view = new DataView(bytes.buffer, bytes.byteOffset, this.sizeBytes);
    const entries = this.fields.map(({ name, type, offsetBytes }) => [name, read(view, type, offsetBytes)]);
    return Object.fromEntries(entries) as StructValues<F>;
  }

  #set(view: DataView, name: string, scalar: Scalar, at: number, value: number) {
    const [low, high] = scalar === "i32"
      ? [-(2 ** 31), 2 ** 31 - 1]
      : scalar === "u32"
      ? [0, 2 ** 32 - 1]
      : [Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER];
    if (scalar.startsWith("f")) {
      if (Number.isNaN(value)) throw new RangeError(`Cannot set ${this.cName}.${name}: received NaN`);
    } else if (!Number.isInteger(value) || value < low || value > high) {
      throw new RangeError(
        `Cannot set ${this.cName}.${name}: expected an integer ${low} to ${high}, received ${value}`,
      );
    }
    if (scalar === "i32") view.setInt32(at, value, true);
    else if (scalar === "u32") view.setUint32(at, value, true);
    else if (scalar === "i64") view.setBigInt64(at, BigInt(value), true);
    else if (scalar === "f32") view.setFloat32(at, value, true);
    else view.setFloat64(at, value, true);
  }
}

function read(view: DataView, type: FieldType, at: number): number | string | number[] {
  if (typeof type !== "string") {
    const [scalar, count] = type;
    if (scalar === "char") {
      const bytes = new Uint8Array(view.buffer, view.byteOffset + at, count);
      const end = bytes.indexOf(0);
      return new TextDecoder().decode(bytes.subarray(0, end < 0 ? count : end));
    }
    return Array.from({ length: count }, (_, i) => readScalar(view, scalar, at + i * SCALAR_BYTES[scalar]));
  }
  return readScalar(view, type, at);
}

function readScalar(view: DataView, scalar: Scalar, at: number): number {
  switch (scalar) {
    case "i32":
      return view.getInt32(at, true);
    case "u32":
      return view.getUint32(at, true);
    case "i64":
      return Number(view.getBigInt64(at, true));
    case "f32":
      return view.getFloat32(at, true);
    case "f64":
      return view.getFloat64(at, true);
  }
}
