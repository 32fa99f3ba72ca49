import { assert, assertAlmostEquals, assertEquals } from "@std/assert";
import { kvBytesPerToken } from "../../engine/kv_bytes.ts";
import { choosePageSizes, PAGE_SIZES } from "../../engine/kv_page_sizes.ts";
import type { KvCacheDtype } from "../../engine/types.ts";

const DTYPES: readonly KvCacheDtype[] = [
  "float32",
  "float16",
  "bfloat16",
  "fp8_e4m3",
  "fp8_e5m2",
  "fp8_per_token_head",
  "int8",
  "int8_per_token_head",
  "k8v4",
  "int4",
];

const bytesOf = (headDim: number, ...dtypes: KvCacheDtype[]) =>
  dtypes.map((dtype) => kvBytesPerToken({ numKvHeads: 2, headDim }, [dtype, dtype, dtype])!);

Deno.test("choosePageSizes() gives a dtype twice the tokens where they have half the bytes", () => {
  const both = bytesOf(128, "bfloat16", "fp8_e4m3");
  assertEquals(choosePageSizes(both, 16), { pageSizes: [16, 32], pageBytes: 16 * both[0]!, unused: [0, 0] });
  assertEquals(choosePageSizes(both, 32).pageSizes, [32, 64]);
  // 64 and 128 there is not.
  assertEquals(choosePageSizes(both, 64).pageSizes, [32, 64]);
  assertEquals(choosePageSizes(both.toReversed(), 16).pageSizes, [32, 16]);
  assertEquals(choosePageSizes(bytesOf(64, "float32", "bfloat16", "fp8_e5m2"), 16).pageSizes, [16, 32, 64]);
});

Deno.test("choosePageSizes() gives a single dtype the size that is wanted", () => {
  for (const size of PAGE_SIZES) {
    assertEquals(choosePageSizes([100], size), { pageSizes: [size], pageBytes: 100 * size, unused: [0] });
  }
});

Deno.test("choosePageSizes() leaves less than half of a page unused, and what the docs say", () => {
  let worst = 0;
  for (const headDim of [64, 128, 256]) {
    for (const a of DTYPES) {
      for (const b of DTYPES) {
        for (const c of DTYPES) {
          const dtypes = [...new Set([a, b, c])];
          const bytes = bytesOf(headDim, ...dtypes);
          const { pageSizes, pageBytes, unused } = choosePageSizes(bytes, 16);
          unused.forEach((part, i) => {
            assert(part >= 0 && part < 0.5, `${dtypes}: ${part}`);
            assertAlmostEquals(part, 1 - bytes[i]! * pageSizes[i]! / pageBytes, 1e-12);
          });
          if (dtypes.length === 2 && dtypes.includes("bfloat16")) worst = Math.max(worst, ...unused);
        }
      }
    }
  }
  assert(worst < 0.22, `the most beside bfloat16 is ${worst}`);
  const unused = (...dtypes: KvCacheDtype[]) => choosePageSizes(bytesOf(128, ...dtypes), 16).unused;
  assertAlmostEquals(unused("bfloat16", "int8")[0]!, 0.03, 0.002);
  assertAlmostEquals(Math.max(...unused("bfloat16", "int4")), 0.11, 0.005);
  assertAlmostEquals(Math.max(...unused("bfloat16", "k8v4")), 0.2, 0.01);
});
