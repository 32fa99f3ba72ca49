/**
 * Comparison with logits that Hugging Face transformers computed in f32 on the same weights.
 *
 * @module
 */

import { assertAlmostEquals, assertEquals, assertLess } from "@std/assert";
import { argmax, type KvDtype, type LoadedModel, logSoftmax } from "./_session.ts";

/** One prompt of a golden file. */
export interface GoldenPrompt {
  readonly name: string;
  readonly ids: readonly number[];
  /** Per position: log of the sum of exp of all logits, and the 20 largest. */
  readonly lse: readonly number[];
  readonly top_ids: readonly (readonly number[])[];
  readonly top_logits: readonly (readonly number[])[];
  /** Greedy continuation, and how far the second best logit was behind at each step. */
  readonly greedy: readonly number[];
  readonly greedy_gap: readonly number[];
}

export async function readGoldens(name: string): Promise<GoldenPrompt[]> {
  return JSON.parse(await Deno.readTextFile(new URL(`../data/golden/${name}`, import.meta.url))).prompts;
}

/** Ties nearer than this under the reference may go either way (design: near-tie rule). */
const NEAR_TIE_NATS = 0.5;

/**
 * Feeds the prompt token by token and compares top logits, their normaliser and the greedy continuation; then in one
 * step, which must give the same bits.
 */
export function compareWithGolden(model: LoadedModel, golden: GoldenPrompt, tolerance: number): void {
  compareSession(model, golden, { tolerance, kvDtype: "float32" });
  using whole = model.session("float32");
  using single = model.session("float32");
  const inOneStep = whole.feed(golden.ids);
  let byToken = inOneStep;
  for (const id of golden.ids) byToken = single.feed([id]);
  assertEquals(inOneStep, byToken, `${golden.name}: prefill and decode differ`);
}

/**
 * Feeds the prompt token by token and compares top logits, their normaliser and the greedy continuation.
 *
 * @returns The largest difference of a logit.
 */
export function compareSession(
  model: LoadedModel,
  golden: GoldenPrompt,
  { tolerance, kvDtype }: { tolerance: number; kvDtype: KvDtype },
): number {
  using session = model.session(kvDtype);
  let worst = 0;
  let logits: Float32Array = new Float32Array();
  golden.ids.forEach((id, position) => {
    logits = session.feed([id]);
    golden.top_ids[position]!.forEach((token, rank) => {
      worst = Math.max(worst, Math.abs(logits[token]! - golden.top_logits[position]![rank]!));
    });
    const lse = logits[0]! - logSoftmax(logits)[0]!;
    assertAlmostEquals(lse, golden.lse[position]!, tolerance, `${golden.name}: position ${position}`);
  });
  assertLess(worst, tolerance, `${golden.name}: largest difference of a top logit`);
  golden.greedy.every((token, i) => {
    const ours = argmax(logits);
    if (ours !== token) {
      assertLess(golden.greedy_gap[i]!, NEAR_TIE_NATS, `${golden.name}: greedy token ${i} is ${ours}, not ${token}`);
      return false; // from here on the texts may differ
    }
    logits = session.feed([ours]);
    return true;
  });
  return worst;
}
