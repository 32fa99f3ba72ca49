/**
 * Deep equality by structure, as assertions use it.
 *
 * @module
 */

type Pairs = Map<object, Set<object>>;

/**
 * Whether two values have the same structure. 0 equals -0 and NaN equals NaN; an absent property differs from one that
 * is undefined; objects of different classes differ. Sets and Map keys are compared by structure, in any order.
 * Cyclic values are compared as far as they go.
 *
 * @throws {TypeError} For two WeakMaps or two WeakSets, which cannot be looked into.
 */
export function equal(a: unknown, b: unknown): boolean {
  return compare(a, b, new Map());
}

function compare(a: unknown, b: unknown, open: Pairs): boolean {
  if (a === b || Object.is(a, b)) return true;
  if (typeof a !== "object" || typeof b !== "object" || a === null || b === null) return false;
  if (!sameClass(a, b)) return false;

  // A pair that is already being compared further up is taken as equal: the answer is decided there.
  const partners = open.get(a) ?? new Set();
  if (partners.has(b)) return true;
  open.set(a, partners.add(b));
  const result = compareContents(a, b, open);
  partners.delete(b);
  return result;
}

function sameClass(a: object, b: object): boolean {
  const classOf = (value: object) => value.constructor ?? Object;
  return classOf(a) === classOf(b);
}

function compareContents(a: object, b: object, open: Pairs): boolean {
  if (a instanceof Date && b instanceof Date) return Object.is(a.getTime(), b.getTime());
  if (a instanceof RegExp || a instanceof URL || a instanceof String) return String(a) === String(b);
  if (a instanceof Number || a instanceof Boolean) return Object.is(a.valueOf(), b.valueOf());
  if (a instanceof WeakMap || a instanceof WeakSet) {
    throw new TypeError(`Cannot compare ${a.constructor.name} instances: their contents cannot be listed`);
  }
  if (a instanceof WeakRef && b instanceof WeakRef && !compare(a.deref(), b.deref(), open)) return false;
  if (isBuffer(a) && isBuffer(b)) return sameElements(new Uint8Array(a), new Uint8Array(b));
  if (a instanceof DataView && b instanceof DataView) return sameElements(viewBytes(a), viewBytes(b));
  if (isTypedArray(a) && isTypedArray(b)) return sameElements(a, b);
  if (a instanceof Set && b instanceof Set && !sameSet(a, b, open)) return false;
  if (a instanceof Map && b instanceof Map && !sameMap(a, b, open)) return false;
  if (a instanceof Error && b instanceof Error && (a.name !== b.name || a.message !== b.message)) return false;
  if (Array.isArray(a) && Array.isArray(b) && a.length !== b.length) return false;
  return sameProperties(a, b, open);
}

type Elements = ArrayLike<number | bigint>;

function isBuffer(value: object): value is ArrayBufferLike {
  return value instanceof ArrayBuffer || value instanceof SharedArrayBuffer;
}

function isTypedArray(value: object): value is Elements {
  return ArrayBuffer.isView(value) && !(value instanceof DataView);
}

function viewBytes(view: ArrayBufferView): Uint8Array {
  return new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
}

function sameElements(a: Elements, b: Elements): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) {
    if (a[i] !== b[i] && !Object.is(a[i], b[i])) return false;
  }
  return true;
}

function sameSet(a: Set<unknown>, b: Set<unknown>, open: Pairs): boolean {
  if (a.size !== b.size) return false;
  const left = new Set(b);
  for (const value of a) {
    if (left.delete(value)) continue;
    const match = [...left].find((other) => compare(value, other, open));
    if (match === undefined) return false;
    left.delete(match);
  }
  return true;
}

function sameMap(a: Map<unknown, unknown>, b: Map<unknown, unknown>, open: Pairs): boolean {
  if (a.size !== b.size) return false;
  const left = new Map(b);
  for (const [key, value] of a) {
    if (left.has(key) && compare(value, left.get(key), open)) {
      left.delete(key);
      continue;
    }
    const match = [...left].find(([k, v]) => compare(key, k, open) && compare(value, v, open));
    if (match === undefined) return false;
    left.delete(match[0]);
  }
  return true;
}

function sameProperties(a: object, b: object, open: Pairs): boolean {
  const keys = enumerableKeys(a);
  if (keys.length !== enumerableKeys(b).length) return false;
  return keys.every((key) => Object.hasOwn(b, key) && compare(Reflect.get(a, key), Reflect.get(b, key), open));
}

/** Own enumerable keys, symbols included. */
function enumerableKeys(value: object): PropertyKey[] {
  return Reflect.ownKeys(value).filter((key) => Object.prototype.propertyIsEnumerable.call(value, key));
}
