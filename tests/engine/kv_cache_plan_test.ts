import { assertEquals, assertThrows } from "@std/assert";
import { chooseKvCacheDtype, planKvPages, skippedLayers } from "../../engine/kv_cache_plan.ts";

const MEMORY = { backend: "cpu", memoryBytes: 2000 * 2 ** 20, memoryFreeBytes: 1000 * 2 ** 20, scratchBytes: 2 ** 20 };
const BASE = {
  gpuMemoryUtilization: 0.9,
  memory: MEMORY,
  pageBytes: 2 ** 20,
  kvKinds: [{ kvDtype: "bfloat16" as const, pageSize: 16 }],
  maxModelLen: 100,
  maxNumSeqs: 4,
};

Deno.test("chooseKvCacheDtype() takes the model's dtype for auto and says so", () => {
  assertEquals(chooseKvCacheDtype("auto", "bfloat16"), { dtype: "bfloat16", reason: "the model's own dtype" });
  assertEquals(chooseKvCacheDtype("fp8", "bfloat16"), { dtype: "fp8_e4m3", reason: "given by --kv-cache-dtype" });
  assertEquals(chooseKvCacheDtype("fp8_e5m2", "float32").dtype, "fp8_e5m2");
  assertThrows(() => chooseKvCacheDtype("int3" as "auto", "float32"), RangeError, 'received "int3"');
});

Deno.test("skippedLayers() gives each named layer once, in order", () => {
  const layers = [0, 512, 0, 512].map((slidingWindow) => ({ slidingWindow, ropeTable: 0 as const }));
  assertEquals(skippedLayers([], layers), []);
  assertEquals(skippedLayers(["sliding_window", 2, 1], layers), [1, 2, 3]);
  assertEquals(skippedLayers(["sliding_window"], layers.slice(0, 1)), []);
  assertThrows(() => skippedLayers([4], layers), RangeError, "must name layers 0 to 3, received 4");
});

Deno.test("planKvPages() takes bytes or a fraction of what is free", () => {
  assertEquals(planKvPages({ ...BASE, kvCacheMemory: { bytes: 10.5 * 2 ** 20 } }), 10);
  assertEquals(planKvPages({ ...BASE, kvCacheMemory: { fraction: 0.02 } }), 20);
});

Deno.test("planKvPages() allocates no more than all sequences can use", () => {
  assertEquals(planKvPages({ ...BASE, kvCacheMemory: { fraction: 1 } }), 28);
});

Deno.test("planKvPages() allocates no more than the native library can number", () => {
  const memory = { ...MEMORY, memoryFreeBytes: 2 ** 60 };
  const huge = { gpuMemoryUtilization: 1, memory, pageBytes: 1024, maxModelLen: 2 ** 20, maxNumSeqs: 4096 };
  for (const pageSize of [16, 32, 64]) {
    const numPages = planKvPages({
      ...huge,
      kvKinds: [{ kvDtype: "bfloat16" as const, pageSize }],
      kvCacheMemory: { fraction: 1 },
    });
    assertEquals(numPages, Math.floor((2 ** 31 - 1) / pageSize));
  }
});

Deno.test("planKvPages() names the numbers and the flags when not even one sequence fits", () => {
  assertEquals(planKvPages({ ...BASE, kvCacheMemory: { bytes: 7 * 2 ** 20 } }), 7);
  assertThrows(
    () => planKvPages({ ...BASE, kvCacheMemory: { fraction: 0.006 } }),
    RangeError,
    "too small for one sequence of 100 tokens: it needs 7.0 MiB and has 6.0 MiB (0.006 of the 1000.0 MiB free). " +
      "Raise --kv-cache-memory, or lower --max-model-len to 96 or less",
  );
});

Deno.test("planKvPages() takes what a GPU's weights and scratch leave of its share, and a quarter on a CPU", () => {
  const plan = { ...BASE, kvCacheMemory: null, maxNumSeqs: 1000 };
  assertEquals(planKvPages(plan), 250);
  const memory = { ...MEMORY, backend: "cuda", scratchBytes: 100.5 * 2 ** 20 };
  // 0.9 of 2000 less 1000 in use and 100.5 for steps.
  assertEquals(planKvPages({ ...plan, memory }), 699);
  assertEquals(planKvPages({ ...plan, memory, gpuMemoryUtilization: 0.6 }), 99);
  assertEquals(planKvPages({ ...plan, memory, kvCacheMemory: { fraction: 0.5 } }), 449);
  assertThrows(
    () => planKvPages({ ...plan, memory, gpuMemoryUtilization: 0.5 }),
    RangeError,
    "it needs 7.0 MiB and has 0.0 MiB (0.5 of 2000.0 MiB, less 1000.0 MiB in use and 100.5 MiB for steps). " +
      "Raise --gpu-memory-utilization, or lower --max-model-len, or choose",
  );
});
