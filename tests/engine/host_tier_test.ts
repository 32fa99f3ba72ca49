import { assertEquals } from "@std/assert";
import { HostTier } from "../../engine/host_tier.ts";
import type { PageMover, TransferTotals } from "../../engine/native.ts";
import { RateMeter } from "../../engine/rate_meter.ts";
import { expectedOutput, greedy } from "./_fake_model.ts";
import { Harness } from "./_harness.ts";

/** Notes what it is asked for; finishes a transfer when told to. */
class NotingMover implements PageMover {
  readonly calls: string[] = [];
  totals = {
    numSubmitted: 0,
    numFinished: 0,
    savedBytes: 0,
    savedSeconds: 0,
    restoredBytes: 0,
    restoredSeconds: 0,
  };

  savePages(pages: Int32Array, hostPages: Int32Array): void {
    this.calls.push(`save ${pages} to ${hostPages}`);
  }

  restorePages(pages: Int32Array, hostPages: Int32Array): void {
    this.calls.push(`restore ${pages} from ${hostPages}`);
  }

  transferStats(): TransferTotals {
    return { ...this.totals };
  }
}

const open = (numHostPages: number) => {
  const mover = new NotingMover();
  return { mover, tier: new HostTier(mover, { numHostPages, numPages: 20, pageBytes: 1000 }) };
};
const tokens = (...ids: number[]) => Int32Array.from(ids);

Deno.test("HostTier keeps the newest pages within its memory", () => {
  const { mover, tier } = open(3);
  for (const [page, name] of ["a", "b", "c"].entries()) tier.save(page, name, tokens(page));
  tier.save(9, "a", tokens(0)); // known: newer now, and nothing is copied
  tier.save(3, "d", tokens(3));
  tier.save(4, "e", tokens(4));
  tier.flush();
  assertEquals(mover.calls, ["save 0,1,2,3,4 to 0,1,2,1,2"]);
  assertEquals(["a", "b", "c", "d", "e"].map((name, i) => tier.find(name, tokens(i))?.hostPage), [
    0,
    undefined,
    undefined,
    1,
    2,
  ]);
  assertEquals(tier.numKept, 3);
});

Deno.test("HostTier.find() compares the tokens", () => {
  const { tier } = open(2);
  const mine = tokens(1, 2);
  tier.save(0, "a", mine);
  mine[0] = 7; // the caller's memory is the caller's
  assertEquals(tier.find("a", tokens(1, 2))?.hostPage, 0);
  assertEquals([tokens(7, 2), tokens(1), tokens(1, 2, 3)].map((other) => tier.find("a", other)), [null, null, null]);
});

Deno.test("HostTier.restore() copies in the order of the calls and gives up no page that is held", () => {
  const { mover, tier } = open(2);
  tier.save(0, "a", tokens(0));
  tier.save(1, "b", tokens(1));
  const found = [tier.find("a", tokens(0))!, tier.find("b", tokens(1))!];
  tier.hold(found);
  tier.save(2, "c", tokens(2)); // no room
  tier.restore(found[0]!, 5);
  tier.save(3, "d", tokens(3)); // takes a's host page, once it has been read
  tier.restore(found[1]!, 6);
  tier.flush();
  tier.flush();
  assertEquals(mover.calls, ["save 0,1 to 0,1", "restore 5 from 0", "save 3 to 0", "restore 6 from 1"]);
  assertEquals([5, 6, 7].map((page) => tier.arrivalOf(page)), [2, 4, 0]);
  mover.totals.numFinished = 3;
  tier.poll();
  assertEquals([5, 6].map((page) => tier.arrivalOf(page)), [0, 4]);
  assertEquals([2, 4].map((transfer) => tier.isUnderWay(transfer)), [false, true]);
  assertEquals(["a", "b", "c", "d"].map((name, i) => tier.find(name, tokens(i)) !== null), [false, true, false, true]);
});

Deno.test("HostTier.forget() and forgetAll() free the pages", () => {
  const { tier } = open(2);
  tier.save(0, "a", tokens(0));
  tier.save(1, "b", tokens(1));
  tier.forget("a");
  tier.forget("x");
  assertEquals([tier.find("a", tokens(0)), tier.numKept], [null, 1]);
  tier.save(2, "c", tokens(2));
  assertEquals(tier.find("b", tokens(1))?.hostPage, 1);
  tier.forgetAll();
  assertEquals(tier.numKept, 0);
  tier.save(3, "d", tokens(3));
  tier.save(4, "e", tokens(4));
  assertEquals(new Set([tier.find("d", tokens(3))?.hostPage, tier.find("e", tokens(4))?.hostPage]), new Set([0, 1]));
});

Deno.test("HostTier.isWorthRestoring() compares what was measured, and measures again now and then", () => {
  const { mover, tier } = open(2);
  const measure = (changes: Partial<NotingMover["totals"]>) => {
    tier.save(0, String(Math.random()), tokens(0));
    tier.flush();
    Object.assign(mover.totals, changes, { numFinished: mover.totals.numFinished + 1 });
    tier.poll();
  };
  assertEquals(tier.isWorthRestoring(1, 16), true); // nothing is known
  tier.countPrefill(1000, 1);
  assertEquals(tier.isWorthRestoring(1, 16), true);
  measure({ savedBytes: 10_000, savedSeconds: 1 }); // 0.1 s a page, as 100 tokens
  assertEquals([[1, 99], [1, 101], [3, 299], [3, 301]].map(([n, t]) => tier.isWorthRestoring(n!, t!)), [
    false,
    true,
    false,
    true,
  ]);
  measure({ restoredBytes: 1_000_000, restoredSeconds: 1 }); // what counts: 1 token
  assertEquals([0, 2].map((numTokens) => tier.isWorthRestoring(1, numTokens)), [false, true]);
  const refused = Array.from({ length: 64 }, () => tier.isWorthRestoring(1, 0)).filter((isWorth) => !isWorth);
  assertEquals(refused.length, 62);
});

Deno.test("RateMeter follows a rate that changes", () => {
  const meter = new RateMeter();
  assertEquals(meter.perSecond, null);
  meter.add(5, 0);
  assertEquals(meter.perSecond, null);
  for (let i = 0; i < 100; i++) meter.add(10, 0.1);
  assertEquals(Math.round(meter.perSecond!), 100);
  for (let i = 0; i < 200; i++) meter.add(1, 0.1);
  assertEquals(Math.round(meter.perSecond!), 10);
});

const CONFIG = { maxNumSeqs: 3, maxNumBatchedTokens: 16, pageSize: 4, numPages: 8, numHostPages: 16 };
const promptOf = (seed: number) => Array.from({ length: 21 }, (_, i) => 2 + (seed * 7 + i * i) % 30);

for (const looksAhead of [false, true]) {
  const how = looksAhead ? " with look-ahead" : "";

  Deno.test(`StepLoop restores what the page pool gave up, and counts it as cached${how}`, () => {
    const harness = new Harness(CONFIG, { looksAhead });
    const run = (seed: number) => {
      const key = harness.submit(promptOf(seed), greedy({ maxTokens: 6, ignoreEos: true }));
      harness.finish();
      assertEquals(harness.tokens(key)[0], expectedOutput(promptOf(seed), greedy({ maxTokens: 6, ignoreEos: true })));
      return harness.transcripts.get(key)!.usage!.cachedTokens;
    };
    assertEquals([1, 2, 3].map(run), [0, 0, 0]);
    assertEquals(harness.counters.get("kvRestoredTokensTotal"), 0);
    assertEquals(run(1), 20);
    assertEquals(harness.counters.get("kvRestoredTokensTotal") > 0, true);
    assertEquals(harness.counters.get("kvRestoredBytesTotal") > 0, true);
    assertEquals(harness.counters.get("kvSavedBytesTotal") > 0, true);
    assertEquals(harness.counters.get("prefixCacheHitsTotal"), 20);
    for (let seed = 4; seed < 12; seed++) run(seed);
    assertEquals(harness.counters.get("numHostPagesKept"), 16);
  });

  Deno.test(`StepLoop lets others go on while a page comes back, and an abort meanwhile loses no page${how}`, () => {
    const harness = new Harness({ ...CONFIG, numPages: 14 }, { looksAhead });
    const sampling = greedy({ maxTokens: 6, ignoreEos: true });
    for (const seed of [1, 2, 3]) {
      harness.submit(promptOf(seed), sampling);
      harness.finish();
    }
    const other = harness.submit([5, 6, 7], greedy({ maxTokens: 12, ignoreEos: true }));
    for (let i = 0; i < 3; i++) harness.step();
    const restored = harness.submit(promptOf(1), sampling);
    const aborted = harness.submit(promptOf(1).slice(0, 15), sampling);
    harness.step();
    assertEquals(harness.counters.get("kvRestoredTokensTotal") > 0, true);
    assertEquals(harness.runner.queryLens, [1]); // only the other one
    harness.abort(aborted);
    harness.finish();
    assertEquals(harness.tokens(restored)[0], expectedOutput(promptOf(1), sampling));
    assertEquals(harness.tokens(other)[0], expectedOutput([5, 6, 7], greedy({ maxTokens: 12, ignoreEos: true })));
    harness.submit(promptOf(1), sampling);
    harness.step();
    harness.abort(5);
    harness.finish();
    assertEquals(harness.warnings, []);
  });

  Deno.test(`StepLoop computes again what is dear to restore${how}`, () => {
    const harness = new Harness(CONFIG, { looksAhead });
    harness.runner.secondsPerPage = 100;
    harness.runner.onStep = () => harness.nowMs += 1;
    const sampling = greedy({ maxTokens: 6, ignoreEos: true });
    for (const seed of [1, 2, 3, 1]) {
      const key = harness.submit(promptOf(seed), sampling);
      harness.finish();
      assertEquals(harness.tokens(key)[0], expectedOutput(promptOf(seed), sampling));
    }
    assertEquals(harness.counters.get("kvRestoredTokensTotal"), 0);
    assertEquals(harness.counters.get("kvSavedBytesTotal") > 0, true);
  });
}
