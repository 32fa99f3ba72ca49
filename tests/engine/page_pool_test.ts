import { assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import { PagePool } from "../../engine/page_pool.ts";

Deno.test("PagePool.allocate() hands out the page freed last first", () => {
  const pool = new PagePool(4, 4);
  assertEquals([pool.allocate(), pool.allocate(), pool.allocate()], [0, 1, 2]);
  pool.free(1);
  pool.free(0);
  assertEquals(pool.numFree, 3);
  assertEquals([pool.allocate(), pool.allocate(), pool.allocate()], [0, 1, 3]);
  assertEquals([pool.numFree, pool.numOwned], [0, 4]);
});

Deno.test("PagePool.allocate() throws when all pages are owned", () => {
  const pool = new PagePool(1, 4);
  pool.allocate();
  assertThrows(() => pool.allocate(), RangeError, "all 1 are owned");
});

Deno.test("PagePool.free() throws when nobody owns the page", () => {
  const pool = new PagePool(2, 4);
  const page = pool.allocate();
  pool.free(page);
  for (const id of [page, 1, 2, -1]) assertThrows(() => pool.free(id), RangeError, `received ${id}`);
  assertEquals(pool.numFree, 2);
});

Deno.test("PagePool.numOwnedOf() counts what each KV dtype has, shared or held back, and not what is idle", () => {
  const pool = new PagePool(6, 4);
  const counts = () => [0, 1, 2].map((kvIndex) => pool.numOwnedOf(kvIndex));
  const [a, b, c] = [pool.allocate(), pool.allocate(2), pool.allocate(2)];
  assertEquals(counts(), [1, 0, 2]);
  pool.name(b, "b", Int32Array.of(1, 2));
  pool.acquire(b);
  pool.free(b);
  assertEquals(counts(), [1, 0, 2]);
  pool.beginStep();
  for (const page of [a, b, c]) pool.free(page);
  assertEquals(counts(), [1, 0, 2]);
  pool.endStep();
  assertEquals([counts(), pool.isIdle(b)], [[0, 0, 0], true]);
  pool.acquire(b);
  assertEquals(counts(), [0, 0, 1]);
  pool.free(b);
  // Any page serves any dtype.
  for (let i = 0; i < 6; i++) pool.allocate(1);
  assertEquals([counts(), pool.find("b", Int32Array.of(1, 2))], [[0, 6, 0], null]);
});

Deno.test("PagePool.reclaim() puts back the pages that were lost", () => {
  const pool = new PagePool(3, 4);
  assertEquals(pool.reclaim(), 0);
  pool.allocate();
  pool.allocate();
  assertEquals(pool.reclaim(), 2);
  assertEquals([pool.allocate(), pool.allocate(), pool.allocate()], [0, 1, 2]);
});

// After vllm#37076 and #39146: an allocator that hands a page out twice.
Deno.test("PagePool never gives a page two owners when pages come and go at random", () => {
  fc.assert(fc.property(fc.array(fc.nat(9), { maxLength: 200, size: "max" }), (moves) => {
    const pool = new PagePool(5, 4);
    const owned: number[] = [];
    for (const move of moves) {
      if (move < 5 && pool.numFree > 0) owned.push(pool.allocate());
      else if (owned.length > 0) pool.free(owned.splice(move % owned.length, 1)[0]!);
      assertEquals(new Set(owned).size, owned.length);
      assertEquals(pool.numOwned, owned.length);
    }
  }));
});

const tokens = (first: number) => Int32Array.of(first, first + 1, first + 2, first + 3);

Deno.test("PagePool.find() gives a named page to many owners, if its tokens are the same", () => {
  const pool = new PagePool(2, 4);
  const page = pool.allocate();
  pool.name(page, "a", tokens(1));
  assertEquals([pool.find("a", tokens(1)), pool.find("a", tokens(2)), pool.find("b", tokens(1))], [page, null, null]);
  pool.acquire(page);
  pool.free(page);
  assertEquals([pool.numOwned, pool.isIdle(page)], [1, false]);
  pool.free(page);
  assertEquals([pool.numOwned, pool.isIdle(page), pool.reclaim()], [0, true, 0]);
  pool.acquire(page);
  assertEquals([pool.numOwned, pool.isIdle(page)], [1, false]);
});

// After local-inference-lab/vllm#480: hits on pages that others have overwritten.
Deno.test("PagePool.allocate() takes idle pages last, the oldest first, and voids their names", () => {
  const pool = new PagePool(4, 4);
  const pages = ["a", "b", "c"].map((name, i) => {
    const page = pool.allocate();
    pool.name(page, name, tokens(i));
    return page;
  });
  for (const page of pages.toReversed()) pool.free(page);
  const held = ["a", "b", "c"].map((name, i) => pool.find(name, tokens(i)));
  assertEquals(held, pages);
  pool.acquire(pages[2]!);
  pool.free(pages[2]!);
  assertEquals([pool.allocate(), pool.allocate(), pool.allocate()], [3, pages[1], pages[0]]);
  assertEquals(["a", "b", "c"].map((name, i) => pool.find(name, tokens(i))), [null, null, pages[2]]);
});

Deno.test("PagePool.name() keeps one page of a name, and forget() none", () => {
  const pool = new PagePool(2, 4);
  const [a, b] = [pool.allocate(), pool.allocate()];
  pool.name(a, "a", tokens(1));
  pool.name(b, "a", tokens(1));
  pool.free(b);
  assertEquals([pool.find("a", tokens(1)), pool.isIdle(b)], [a, false]);
  pool.forget(a);
  pool.free(a);
  assertEquals([pool.find("a", tokens(1)), pool.numFree, pool.reclaim()], [null, 2, 0]);
});

// After vllm PR#45357: pages freed while a step in flight still read them.
Deno.test("PagePool.free() holds a page back until the steps under way have finished", () => {
  const pool = new PagePool(2, 4);
  const [a, b] = [pool.allocate(), pool.allocate()];
  pool.name(b, "b", tokens(1));
  pool.beginStep();
  pool.free(a);
  pool.beginStep();
  pool.free(b);
  assertEquals(pool.numFree, 0);
  assertThrows(() => pool.allocate(), RangeError);
  pool.endStep();
  assertEquals([pool.numFree, pool.find("b", tokens(1))], [1, b]);
  // A page that is found again while it is held back has an owner, and is not freed under it.
  pool.acquire(b);
  pool.endStep();
  assertEquals([pool.numFree, pool.allocate()], [1, a]);
  pool.free(a);
  pool.free(b);
  assertEquals([pool.numFree, pool.reclaim()], [2, 0]);
});

/** A page pool by its definition: lists and searches. */
class SimplePool {
  free = new Set<number>();
  idle: number[] = [];
  refs = new Map<number, number>();
  names = new Map<number, string>();
  held: { page: number; step: number }[] = [];
  begun = 0;
  ended = 0;

  constructor(numPages: number) {
    for (let page = 0; page < numPages; page++) this.free.add(page);
  }

  allocated(page: number): void {
    if (this.free.size > 0) assertEquals(this.free.delete(page), true);
    else {
      assertEquals(this.idle.shift(), page);
      this.names.delete(page);
    }
    this.refs.set(page, 1);
  }

  release(page: number): void {
    const refs = this.refs.get(page)! - 1;
    if (refs > 0) this.refs.set(page, refs);
    else {
      this.refs.delete(page);
      if (this.begun > this.ended) this.held.push({ page, step: this.begun });
      else this.putBack(page);
    }
  }

  acquire(page: number): void {
    this.idle = this.idle.filter((other) => other !== page);
    this.held = this.held.filter((other) => other.page !== page);
    this.refs.set(page, (this.refs.get(page) ?? 0) + 1);
  }

  endStep(): void {
    this.ended++;
    for (const { page } of this.held.filter(({ step }) => step <= this.ended)) this.putBack(page);
    this.held = this.held.filter(({ step }) => step > this.ended);
  }

  find(name: string): number | null {
    return [...this.names].find(([, other]) => other === name)?.[0] ?? null;
  }

  putBack(page: number): void {
    if (this.names.has(page)) this.idle.push(page);
    else this.free.add(page);
  }
}

/** Longer runs: OCTAVO_MODEL_RUNS=20000 is above 1e6 operations. */
const NUM_RUNS = Number(Deno.env.get("OCTAVO_MODEL_RUNS") ?? 300);

Deno.test("PagePool agrees with a simple pool at random", () => {
  let numOperations = 0;
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.nat(6), fc.nat(7)), { maxLength: 200, size: "max" }), (moves) => {
      const [pool, simple] = [new PagePool(6, 4), new SimplePool(6)];
      for (const [move, which] of moves) {
        numOperations++;
        applyMove(pool, simple, { move, which });
        assertEquals(pool.numFree, simple.free.size + simple.idle.length);
        for (let name = 0; name < 8; name++) {
          assertEquals(pool.find(`${name}`, tokens(name)), simple.find(`${name}`));
        }
      }
      for (const [page, refs] of simple.refs) for (let i = 0; i < refs; i++) pool.free(page);
      while (simple.begun > simple.ended++) pool.endStep();
      assertEquals([pool.numFree, pool.reclaim()], [6, 0]);
    }),
    { numRuns: NUM_RUNS, seed: 20260102 },
  );
  if (NUM_RUNS > 300) console.log({ numOperations });
});

function applyMove(pool: PagePool, simple: SimplePool, { move, which }: { move: number; which: number }): void {
  const owned = [...simple.refs.keys()];
  const page = owned[which % Math.max(1, owned.length)];
  const found = pool.find(`${which}`, tokens(which));
  if (move <= 1 && pool.numFree > 0) simple.allocated(pool.allocate());
  else if (move === 2 && page !== undefined) {
    pool.free(page);
    simple.release(page);
  } else if (move === 3 && page !== undefined) {
    pool.name(page, `${which}`, tokens(which));
    if (simple.find(`${which}`) === null && !simple.names.has(page)) simple.names.set(page, `${which}`);
  } else if (move === 4 && found !== null) {
    pool.acquire(found);
    simple.acquire(found);
  } else if (move === 5 && simple.begun - simple.ended < 2) {
    pool.beginStep();
    simple.begun++;
  } else if (move === 6 && simple.begun > simple.ended) {
    pool.endStep();
    simple.endStep();
  }
}
