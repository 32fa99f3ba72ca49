import {
  assert,
  assertAlmostEquals,
  assertArrayIncludes,
  assertEquals,
  assertExists,
  assertFalse,
  assertGreater,
  assertGreaterOrEqual,
  assertInstanceOf,
  AssertionError,
  assertLess,
  assertLessOrEqual,
  assertMatch,
  assertNotEquals,
  assertNotStrictEquals,
  assertRejects,
  assertStrictEquals,
  assertStringIncludes,
  assertThrows,
  equal,
  fail,
  unreachable,
} from "@std/assert";

class Point {
  constructor(readonly x: number) {}
}
function cycle(): { self?: unknown } {
  const value: { self?: unknown } = {};
  value.self = value;
  return value;
}

const EQUAL: [string, unknown, unknown][] = [
  ["NaN", NaN, NaN],
  ["signed zeros", [0, { a: -0 }], [-0, { a: 0 }]],
  ["nested objects, keys in any order", { a: [1, { b: 2 }], c: null }, { c: null, a: [1, { b: 2 }] }],
  ["sets of structures in any order", new Set([1, { a: 1 }]), new Set([{ a: 1 }, 1])],
  ["maps with structured keys", new Map([[{ k: 1 }, [2]]]), new Map([[{ k: 1 }, [2]]])],
  ["typed arrays", new Float32Array([1, NaN]), new Float32Array([1, NaN])],
  ["views at other offsets", new Uint8Array([9, 1, 2]).subarray(1), new Uint8Array([1, 2])],
  ["buffers", new Uint8Array([1]).buffer, new Uint8Array([1]).buffer],
  ["dates", new Date(5), new Date(5)],
  ["invalid dates", new Date("?"), new Date("?")],
  ["regular expressions", /a/g, /a/g],
  ["URLs", new URL("http://a/b"), new URL("http://a/b")],
  ["cycles", cycle(), cycle()],
  ["objects without a prototype", Object.assign(Object.create(null), { a: 1 }), { a: 1 }],
];
const DIFFERENT: [string, unknown, unknown][] = [
  ["number and its text", 1, "1"],
  ["null and undefined", null, undefined],
  ["absent and undefined property", {}, { a: undefined }],
  ["other property of the same value", { a: undefined }, { b: undefined }],
  ["array order", [1, 2], [2, 1]],
  ["array lengths", [1], [1, undefined]],
  ["array and object", [], {}],
  ["sets", new Set([1, 2]), new Set([1, 3])],
  ["map values", new Map([["a", 1]]), new Map([["a", 2]])],
  ["typed array types", new Uint8Array([1]), new Int8Array([1])],
  ["typed array contents", new Float64Array([1, 2]), new Float64Array([1, 3])],
  ["shared and plain buffers", new ArrayBuffer(1), new SharedArrayBuffer(1)],
  ["dates", new Date(5), new Date(6)],
  ["flags", /a/g, /a/i],
  ["error messages", new Error("a"), new Error("b")],
  ["error classes", new Error("a"), new TypeError("a")],
  ["classes", new Point(1), { x: 1 }],
  ["symbol properties", { [Symbol("a")]: 1 }, { [Symbol("a")]: 1 }],
  ["bigint and number", 1n, 1],
];

for (const [name, a, b] of EQUAL) {
  Deno.test(`equal() holds for ${name}`, () => {
    assert(equal(a, b));
    assert(equal(b, a));
    assertEquals(a, b);
    assertThrows(() => assertNotEquals(a, b), AssertionError);
  });
}
for (const [name, a, b] of DIFFERENT) {
  Deno.test(`equal() does not hold for different ${name}`, () => {
    assertFalse(equal(a, b));
    assertFalse(equal(b, a));
    assertNotEquals(a, b);
    assertThrows(() => assertEquals(a, b), AssertionError, "Values are not equal");
  });
}

Deno.test("equal() throws when it cannot look into the values", () => {
  assertThrows(() => equal(new WeakMap(), new WeakMap()), TypeError);
});

Deno.test("assertEquals() shows the lines that differ", () => {
  const error = assertThrows(
    () => assertEquals({ a: 1, b: [1, 2, 3] }, { a: 1, b: [1, 4, 3] }, "pages"),
    AssertionError,
    "Values are not equal: pages",
  );
  assertMatch(error.message, /^-\s+2,$/m);
  assertMatch(error.message, /^\+\s+4,$/m);
  assertMatch(error.message, /^\s+3,$/m);
});

Deno.test("assertEquals() compares long values in bounded time when they differ", () => {
  const long = Array.from({ length: 20_000 }, (_, i) => i);
  assertThrows(() => assertEquals(long, long.map((i) => i + 1)), AssertionError, "Values are not equal");
});

Deno.test("assertStrictEquals() tells same structure from same value", () => {
  const value = { a: 1 };
  assertStrictEquals(value, value);
  assertNotStrictEquals(value, { a: 1 });
  assertThrows(() => assertStrictEquals(value, { a: 1 }), AssertionError, "not reference-equal");
  assertThrows(() => assertStrictEquals(1, 2), AssertionError, "not strictly equal");
  assertThrows(() => assertStrictEquals(0, -0), AssertionError);
});

Deno.test("assertThrows() returns the error and checks its class and message", () => {
  const thrown = new RangeError("page 7 of 5");
  const raise = () => {
    throw thrown;
  };
  assertStrictEquals(assertThrows(raise), thrown);
  assertStrictEquals(assertThrows(raise, RangeError, "page 7"), thrown);
  assertThrows(() => assertThrows(raise, TypeError), AssertionError, 'instance of "TypeError", but was "RangeError"');
  assertThrows(() => assertThrows(raise, RangeError, "page 8"), AssertionError, "page 8");
  assertThrows(() => assertThrows(() => {}), AssertionError, "Expected function to throw");
  assertThrows(
    () =>
      assertThrows(() => {
        throw "text";
      }, Error),
    AssertionError,
    "non-Error",
  );
});

Deno.test("assertRejects() returns the reason and checks its class and message", async () => {
  const reason = new RangeError("page 7 of 5");
  assertStrictEquals(await assertRejects(() => Promise.reject(reason)), reason);
  assertStrictEquals(await assertRejects(() => Promise.reject(reason), RangeError, "of 5"), reason);
  await assertRejects(() => assertRejects(() => Promise.reject(reason), TypeError), AssertionError);
  await assertRejects(() => assertRejects(() => Promise.resolve()), AssertionError, "Expected function to reject");
  const throwing = (): Promise<void> => {
    throw reason;
  };
  await assertRejects(() => assertRejects(throwing), AssertionError, "throws when expected to reject");
});

const FAILING: [string, () => unknown, string][] = [
  ["assert()", () => assert(0, "no pages"), "no pages"],
  ["assertFalse()", () => assertFalse(1, "pages"), "pages"],
  ["assertExists()", () => assertExists(null), "null or undefined"],
  ["assertInstanceOf()", () => assertInstanceOf(new Date(), Map), 'instance of "Map" but was "Date"'],
  ["assertStringIncludes()", () => assertStringIncludes("abc", "d"), 'to contain: "d"'],
  ["assertMatch()", () => assertMatch("abc", /d/), 'to match: "/d/"'],
  ["assertAlmostEquals()", () => assertAlmostEquals(1, 1.1), "to be close to"],
  ["assertAlmostEquals() with NaN", () => assertAlmostEquals(NaN, 1), "to be close to"],
  ["assertGreater()", () => assertGreater(1, 1), "1 > 1"],
  ["assertGreaterOrEqual()", () => assertGreaterOrEqual(1, 2), "1 >= 2"],
  ["assertLess()", () => assertLess(1, 1), "1 < 1"],
  ["assertLessOrEqual()", () => assertLessOrEqual(2, 1), "2 <= 1"],
  ["assertArrayIncludes()", () => assertArrayIncludes([1, { a: 1 }], [{ a: 2 }]), "missing"],
  ["fail()", () => fail("here"), "Failed assertion: here"],
  ["unreachable()", () => unreachable(), "Unreachable."],
];
for (const [name, call, message] of FAILING) {
  Deno.test(`${name} throws AssertionError with its reason when it does not hold`, () => {
    assertThrows(call, AssertionError, message);
  });
}

Deno.test("assertions return quietly when they hold", () => {
  assertExists(0);
  assertInstanceOf(new RangeError(), Error);
  assertAlmostEquals(0.1 + 0.2, 0.3);
  assertAlmostEquals(Infinity, Infinity);
  assertGreaterOrEqual(2n, 2n);
  assertLess("a", "b");
  assertArrayIncludes([1, { a: 1 }, 3], [{ a: 1 }]);
});
