/** KL divergences of KV cache formats on SmolLM2 beside the same formats simulated in transformers, f32 arithmetic. */

import { assert, assertAlmostEquals } from "@std/assert";
import { measureKvAccuracy } from "../../engine/kv_accuracy.ts";
import { KvComparison } from "../../engine/kv_comparison.ts";
import { kvVariant } from "../../engine/kv_variants.ts";
import { loadModel } from "../../engine/load_model.ts";
import { openLibrary } from "../../ffi/library.ts";
import { fetchDemoModel } from "../../models/demo.ts";
import { openModel } from "../../models/open_model.ts";
import { readJson } from "../models/_fixtures.ts";

const golden = readJson<{ perplexity: number; kl_mean: Record<string, number> }>("golden/smollm2_kv_accuracy.json");
const LENGTH = 512;
const LICENSE = new URL("../../LICENSE", import.meta.url);

Deno.test("KL of the KV cache formats on SmolLM2 is what transformers gives for them", async () => {
  const model = await openModel(await fetchDemoModel());
  const tokens = model.tokenizer.encode(Deno.readTextFileSync(LICENSE)).slice(0, LENGTH);
  using library = await openLibrary("cpu");
  const settings = { maxModelLen: LENGTH, layerKvDtypes: [], numThreads: 0, quantization: "none" } as const;
  using native = loadModel(library, model, settings, () => {});
  // The tolerance of the static formats is what their few large errors leave of 512 tokens.
  const cases = [["int8", 0.1], ["k8v4", 0.1], ["int4", 0.1], ["fp8_e4m3", 0.2]] as const;
  const variants = [kvVariant(model, "float32"), ...cases.map(([dtype]) => kvVariant(model, dtype))];
  using comparison = new KvComparison(native, { variants, maxTokens: LENGTH, numThreads: 0 });
  const options = { samples: [tokens], greedyTokens: 0, onSample: () => {} };
  const [reference, ...others] = measureKvAccuracy(comparison, options);
  assertAlmostEquals(reference!.perplexity / golden.perplexity, 1, 1e-3);
  cases.forEach(([dtype, tolerance], i) => {
    const ratio = others[i]!.klMean / golden.kl_mean[dtype]!;
    assert(Math.abs(ratio - 1) < tolerance, `${dtype}: ${others[i]!.klMean} nats, ${ratio} of transformers'`);
  });
});
