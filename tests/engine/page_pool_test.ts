import { assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import { PagePool } from "../../engine/page_pool.ts";

Deno.test("PagePool.allocate() hands out the page freed last first", () => {
  const pool = new PagePool(4);
  assertEquals([pool.allocate(), pool.allocate(), pool.allocate()], [0, 1, 2]);
  pool.free(1);
  pool.free(0);
  assertEquals(pool.numFree, 3);
  assertEquals([pool.allocate(), pool.allocate(), pool.allocate()], [0, 1, 3]);
  assertEquals([pool.numFree, pool.numOwned], [0, 4]);
});

Deno.test("PagePool.allocate() throws when all pages are owned", () => {
  const pool = new PagePool(1);
  pool.allocate();
  assertThrows(() => pool.allocate(), RangeError, "all 1 are owned");
});

Deno.test("PagePool.free() throws when nobody owns the page", () => {
  const pool = new PagePool(2);
  const page = pool.allocate();
  pool.free(page);
  for (const id of [page, 1, 2, -1]) assertThrows(() => pool.free(id), RangeError, `received ${id}`);
  assertEquals(pool.numFree, 2);
});

Deno.test("PagePool.reclaim() puts back the pages that were lost", () => {
  const pool = new PagePool(3);
  assertEquals(pool.reclaim(), 0);
  pool.allocate();
  pool.allocate();
  assertEquals(pool.reclaim(), 2);
  assertEquals([pool.allocate(), pool.allocate(), pool.allocate()], [0, 1, 2]);
});

// After vllm#37076 and #39146: an allocator that hands a page out twice.
Deno.test("PagePool never gives a page two owners when pages come and go at random", () => {
  fc.assert(fc.property(fc.array(fc.nat(9), { maxLength: 200, size: "max" }), (moves) => {
    const pool = new PagePool(5);
    const owned: number[] = [];
    for (const move of moves) {
      if (move < 5 && pool.numFree > 0) owned.push(pool.allocate());
      else if (owned.length > 0) pool.free(owned.splice(move % owned.length, 1)[0]!);
      assertEquals(new Set(owned).size, owned.length);
      assertEquals(pool.numOwned, owned.length);
    }
  }));
});
