import { assertEquals, assertGreater, assertThrows } from "@std/assert";
import { EngineError } from "../../engine/errors.ts";
import { PageGuard } from "../../engine/page_guard.ts";
import { greedy } from "./_fake_model.ts";
import { Harness } from "./_harness.ts";

const SAMPLING = greedy({ maxTokens: 6, ignoreEos: true });
const PROMPT = [2, 3, 4, 5, 6, 7, 8, 9, 10];

function harness(numPages = 16): Harness {
  return new Harness({ maxNumSeqs: 4, maxNumBatchedTokens: 16, pageSize: 4, numPages, numHostPages: 4 }, {
    checksPages: true,
  });
}

/** The pages of the request that runs, in order. */
function pages({ runner: { buffer } }: Harness): number[] {
  return [...buffer.pageTable.subarray(0, Math.ceil(buffer.seqLen[0]! / 4))];
}

Deno.test("PageGuard finds a page that changed when it is shared again, loses its name, or nothing runs", () => {
  for (const when of ["shared", "evicted", "idle"]) {
    const engine = harness(when === "evicted" ? 5 : 16);
    engine.submit(PROMPT, SAMPLING);
    engine.step();
    const [first] = pages(engine);
    if (when !== "idle") engine.finish();
    engine.runner.spoilPage(first!);
    if (when === "shared") engine.submit(PROMPT, SAMPLING);
    if (when === "evicted") engine.submit(PROMPT.map((id) => id + 9), SAMPLING);
    const error = assertThrows(() => engine.finish(), EngineError);
    assertEquals(error.message.startsWith(`Page ${first} changed while others could share it`), true);
  }
});

Deno.test("PageGuard finds nothing while pages are filled, shared, saved, restored and given up", () => {
  const engine = harness(6);
  for (let round = 0; round < 12; round++) {
    engine.submit(PROMPT.map((id) => id + round % 3), { ...SAMPLING, n: 1 + round % 2 });
    if (round % 4 === 3) engine.finish();
  }
  engine.finish();
  assertGreater(engine.pageGuard!.numChecked, 30);
});

Deno.test("PageGuard.settle() takes a page's checksum once, and compares from then on", () => {
  let value = 1n;
  const guard = new PageGuard(() => value);
  guard.named(3);
  value = 2n;
  guard.check(3);
  guard.settle();
  guard.settle();
  guard.check(3);
  value = 0xffn;
  const message = "Page 3 changed while others could share it: its checksum was 2 and is ff";
  assertThrows(() => guard.check(3), EngineError, message);
  assertThrows(() => guard.checkAll(), EngineError, message);
  guard.check(4);
  assertThrows(() => guard.unnamed(3), EngineError, message);
});
