/** Traces in virtual time: what `bench/scheduler.ts` measures, held to its promises. */

import { assert, assertEquals, assertLess, assertThrows } from "@std/assert";
import { simulate, type SimulationOptions } from "../../bench/_simulation.ts";
import { makeTrace, parseTrace, TRACE_KINDS, type TraceRequest } from "../../bench/_trace.ts";

const OPTIONS: SimulationOptions = {
  pageSize: 16,
  numPages: 600,
  maxNumSeqs: 64,
  maxNumBatchedTokens: 512,
  cost: { stepMs: 5, promptTokenMs: 0.02, contextTokenMs: 1e-5 },
  hasTenants: true,
};

function line(fields: Partial<TraceRequest>): string {
  return JSON.stringify({ at_ms: 0, prompt_tokens: 10, output_tokens: 10, ...fields }) + "\n";
}

Deno.test("parseTrace() reads what makeTrace() makes, and names the line that it cannot read", () => {
  for (const kind of TRACE_KINDS) {
    const trace = makeTrace(kind, { numRequests: 150, rate: 50, seed: 3 });
    assertEquals(parseTrace(trace.map((request) => JSON.stringify(request)).join("\n")), trace);
    assertEquals(trace, trace.toSorted((a, b) => a.at_ms - b.at_ms));
  }
  assertThrows(() => parseTrace(line({}) + line({ prompt_tokens: 0 })), RangeError, "Line 2");
  assertThrows(() => parseTrace(line({ output_tokens: 10, max_tokens: 9 })), RangeError, "found 10, 9");
});

Deno.test("simulate() gives every request its tokens, and takes as long as its steps cost", () => {
  const trace = parseTrace(line({ output_tokens: 3, max_tokens: 50 }) + line({ at_ms: 1000, prompt_tokens: 600 }));
  const { lives, endMs, numSteps, numComputed, numWasted } = simulate(trace, OPTIONS);
  assertEquals(lives.map(({ tokenMs }) => tokenMs.length), [3, 10]);
  assertEquals([numSteps, numComputed, numWasted], [3 + 11, 10 + 2 + 600 + 9, 0]);
  const contexts = [10, 11, 12, 512, ...Array.from({ length: 10 }, (_, i) => 600 + i)];
  const expected = contexts.slice(3).reduce((sum, tokens) => sum + 5 + tokens * 1e-5, 1000 + 600 * 0.02);
  assert(Math.abs(endMs - expected) < 1e-6);
});

// After the stalls of long-prefill bursts: other streams wait for a chunk at most, whatever comes.
Deno.test("no stream waits longer than a step with a whole chunk while nobody is preempted", () => {
  const { stepMs, promptTokenMs, contextTokenMs } = OPTIONS.cost;
  const numPages = 12_000;
  const longestMs = stepMs + OPTIONS.maxNumBatchedTokens * promptTokenMs + numPages * OPTIONS.pageSize * contextTokenMs;
  for (const kind of TRACE_KINDS) {
    const trace = makeTrace(kind, { numRequests: 200, rate: 20, seed: 5 });
    const { lives, numPreemptions } = simulate(trace, { ...OPTIONS, numPages });
    assertEquals(numPreemptions, 0, kind);
    for (const { tokenMs } of lives) {
      for (let i = 1; i < tokenMs.length; i++) assertLess(tokenMs[i]! - tokenMs[i - 1]!, longestMs + 1);
    }
  }
});

Deno.test("a full pool preempts rarely and computes little again", () => {
  for (const kind of ["poisson", "bursts"] as const) {
    const trace = makeTrace(kind, { numRequests: 300, rate: 60, seed: 7 });
    const { numPreemptions, numWasted, numComputed, fullness } = simulate(trace, OPTIONS);
    assertLess(numPreemptions, 15, kind);
    assertLess(numWasted, 0.02 * numComputed, kind);
    // A reserve that is too large would leave it empty.
    assertLess(0.8, fullness, kind);
  }
});

Deno.test("tenants get their weights' shares while all of them wait", () => {
  const trace = makeTrace("tenants", { numRequests: 600, rate: 100, seed: 9 });
  const untilMs = trace.at(-1)!.at_ms;
  const shareOf = (hasTenants: boolean, tenant: string) => {
    const { lives } = simulate(trace, { ...OPTIONS, hasTenants });
    const tokens = (of: typeof lives) =>
      of.reduce((sum, { tokenMs }) => sum + tokenMs.filter((ms) => ms <= untilMs).length, 0);
    return tokens(lives.filter(({ request }) => request.tenant === tenant)) / tokens(lives);
  };
  for (const [tenant, share] of [["flood", 0.25], ["light", 0.25], ["double", 0.5]] as const) {
    assertLess(Math.abs(shareOf(true, tenant) - share), 0.1, tenant);
  }
  assertLess(0.45, shareOf(false, "flood"));
});

Deno.test("prompts of one beginning are computed once", () => {
  const trace = parseTrace(
    [0, 1000, 2000].map((at_ms) => line({ at_ms, prompt_tokens: 100, prefix: 1, prefix_tokens: 64 })).join(""),
  );
  assertEquals(simulate(trace, OPTIONS).numComputed, 3 * 109 - 2 * 64);
});

Deno.test("a short prompt has its first token after two chunks at most while a long one is computed", () => {
  const { stepMs, promptTokenMs } = OPTIONS.cost;
  const chunkMs = stepMs + OPTIONS.maxNumBatchedTokens * promptTokenMs + 1;
  const long = line({ prompt_tokens: 9000 });
  const shorts = Array.from({ length: 20 }, (_, i) => line({ at_ms: 20 + 12 * i, prompt_tokens: 60 })).join("");
  const { lives: [first, ...others] } = simulate(parseTrace(long + shorts), { ...OPTIONS, numPages: 4000 });
  const firstMs = ({ tokenMs, request }: NonNullable<typeof first>) => tokenMs[0]! - request.at_ms;
  // It took more than all of them.
  assertLess(others.at(-1)!.request.at_ms, firstMs(first!));
  for (const life of others) assertLess(firstMs(life), 2 * chunkMs);
});
