/** KL divergences of KV cache formats on SmolLM2 beside the same formats simulated in transformers, f32 arithmetic. */

import { assert, assertAlmostEquals, assertEquals } from "@std/assert";
import { calibrate, parseCalibrate } from "../../calibrate.ts";
import { measureKvAccuracy } from "../../engine/kv_accuracy.ts";
import { KvComparison } from "../../engine/kv_comparison.ts";
import { fileVariants, kvVariant } from "../../engine/kv_variants.ts";
import { loadModel } from "../../engine/load_model.ts";
import { openLibrary } from "../../ffi/library.ts";
import { fetchDemoModel } from "../../models/demo.ts";
import { openModel } from "../../models/open_model.ts";
import { readJson, withTempFolder } from "../models/_fixtures.ts";

const golden = readJson<{ perplexity: number; kl_mean: Record<string, number> }>("golden/smollm2_kv_accuracy.json");
const LENGTH = 512;
const LICENSE = new URL("../../LICENSE", import.meta.url);

Deno.test("KL of the KV cache formats on SmolLM2 is what transformers gives for them", () =>
  withTempFolder(async (folder) => {
    const path = await fetchDemoModel();
    const model = await openModel(path);
    const text = model.tokenizer.encode(Deno.readTextFileSync(LICENSE));
    const tokens = text.slice(0, LENGTH);
    const calibration = [1, 2].map((i) => JSON.stringify({ token_ids: text.slice(i * LENGTH, (i + 1) * LENGTH) }));
    const [data, scales] = [`${folder}/calibration.jsonl`, `${folder}/scales.safetensors`];
    Deno.writeTextFileSync(data, calibration.join("\n"));
    const silent = { log: () => {}, onProgress: () => {} };
    await calibrate(parseCalibrate([path, "--data", data, "--output", scales]), silent);
    using library = await openLibrary("cpu");
    const settings = { maxModelLen: LENGTH, layerKvDtypes: [], numThreads: 0, quantization: "none" } as const;
    using native = loadModel(library, model, settings, () => {});
    // The tolerance of the static formats is what their few large errors leave of 512 tokens.
    const dtypes = ["int8", "k8v4", "int4", "fp8_e4m3"] as const;
    const withMeans = fileVariants(model, scales).filter(({ kMean }) => kMean !== null);
    const variants = [kvVariant(model, "float32"), ...dtypes.map((dtype) => kvVariant(model, dtype)), ...withMeans];
    using comparison = new KvComparison(native, { variants, maxTokens: LENGTH, numThreads: 0 });
    const options = { samples: [tokens], greedyTokens: 0, onSample: () => {} };
    const [reference, ...others] = measureKvAccuracy(comparison, options);
    assertAlmostEquals(reference!.perplexity / golden.perplexity, 1, 1e-3);
    assertEquals(others.length, 7);
    others.forEach(({ name, klMean }, i) => {
      const { dtype, kMean } = variants[i + 1]!;
      const ratio = klMean / golden.kl_mean[kMean === null ? dtype : `${dtype}_mu`]!;
      assert(
        Math.abs(ratio - 1) < (dtype === "fp8_e4m3" ? 0.2 : 0.1),
        `${name}: ${klMean} nats, ${ratio} of transformers'`,
      );
    });
  }));
