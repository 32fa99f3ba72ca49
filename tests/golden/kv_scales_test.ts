/** LLM Compressor's own checkpoints, loaded and run: the scales in use and the logits they give. */

import { assert, assertEquals, assertLess, assertNotEquals } from "@std/assert";
import { nativeKvScales } from "../../engine/kv_scales.ts";
import { LLM } from "../../llm.ts";
import { readKvScaleFile } from "../../models/kv_scales.ts";
import { dataPath, readJson, withTempFolder } from "../models/_fixtures.ts";
import { openKvCheckpoint } from "../models/_kv_checkpoint.ts";
import type { GoldenPrompt } from "./_goldens.ts";
import { LoadedModel } from "./_session.ts";

const golden = readJson<{ prompt: number[]; folders: Record<string, { e4m3_kv: GoldenPrompt }> }>("tiny/golden.json");

for (const name of ["kv_tensor", "kv_head", "attention"]) {
  Deno.test(`tiny/${name} has transformers' logits with an FP8 cache at the checkpoint's scales`, () =>
    withTempFolder(async (folder) => {
      const files = await openKvCheckpoint(folder, name);
      using model = await LoadedModel.open(files);
      const { numKvHeads } = files.config;
      using session = model.session("fp8_e4m3", 256, nativeKvScales(files.kvCache.scales.layers, numKvHeads));

      // The scales in use are those of the file, to the bit.
      const inFile = new Map(
        readKvScaleFile(dataPath(`tiny/${name}/scales.safetensors`)).map((e) => [e.name, e.values]),
      );
      const expected = files.config.layers.flatMap((_, layer) =>
        ["k", "v"].flatMap((kind) => {
          const values = inFile.get(`model.layers.${layer}.self_attn.${kind}_scale`)!;
          return values.length === 1 ? new Array(numKvHeads).fill(values[0]) : values;
        })
      );
      assertEquals([...session.kvScales], expected);
      assert(new Set(expected).size > 3, "the scales differ, or a mix-up would not be seen");

      const { top_ids: ids, top_logits: logits } = golden.folders[name]!.e4m3_kv;
      let worst = 0;
      golden.prompt.forEach((token, position) => {
        const ours = session.feed([token]);
        ids[position]!.forEach((id, rank) => worst = Math.max(worst, Math.abs(ours[id]! - logits[position]![rank]!)));
      });
      assertLess(worst, 1e-3);
    }));
}

Deno.test("LLM with kvCacheDtype auto follows the checkpoint, and kvScales goes before it", () =>
  withTempFolder(async (folder) => {
    await openKvCheckpoint(folder, "kv_head");
    await using llm = await LLM.load({ model: folder, kvCacheMemory: "16MiB", strictKvScales: true });
    assertEquals(llm.info.kvCacheDtype, "fp8_e4m3");
    assertEquals(llm.info.kvCacheDtypeReason, "asked for by config.json's kv_cache_scheme");
    assertEquals(llm.info.kvLayers.map(({ scales }) => scales!.source), ["checkpoint", "checkpoint", "checkpoint"]);
    const { greedy } = golden.folders["kv_head"]!.e4m3_kv;
    const sampling = { temperature: 0, maxTokens: 2 };
    const [own] = await llm.generate(golden.prompt, sampling);
    assertEquals(own.outputs[0].tokenIds, greedy.slice(0, 2));

    const kvScales = dataPath("tiny/kv_tensor/scales.safetensors");
    await using given = await LLM.load({ model: folder, kvCacheMemory: "16MiB", kvScales });
    assertEquals(given.info.kvLayers.map(({ scales }) => [scales!.source, scales!.granularity]), [
      ["file", "tensor"],
      ["file", "tensor"],
      ["file", "tensor"],
    ]);
  }));

Deno.test("LLM gives the same log-probabilities with scales of the checkpoint, of a file, and after it was closed", () =>
  withTempFolder(async (folder) => {
    await openKvCheckpoint(folder, "kv_head");
    const run = async (options: { kvScales?: string }) => {
      await using llm = await LLM.load({ model: folder, kvCacheMemory: "16MiB", ...options });
      const [out] = await llm.generate(golden.prompt, { temperature: 0, maxTokens: 12, ignoreEos: true, logprobs: 0 });
      return out.outputs[0].logprobs!.map(({ logprob }) => logprob);
    };
    const own = await run({});
    assertEquals(await run({}), own);
    const kvScales = dataPath("tiny/kv_head/scales.safetensors");
    assertEquals(await run({ kvScales }), own);
    const other = dataPath("tiny/kv_tensor/scales.safetensors");
    assertNotEquals(await run({ kvScales: other }), own);
  }));
