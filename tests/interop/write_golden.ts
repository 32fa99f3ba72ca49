/**
 * Writes what Octavo makes of a checkpoint with KV scales, for `check_transformers.py`:
 * `{"tokens", "logits": with the FP8 cache at the checkpoint's scales, "exact": with a float32 cache}`.
 *
 * usage: deno run -A tests/interop/write_golden.ts FOLDER OUT.json
 *
 * @module
 */

import { nativeKvScales } from "../../engine/kv_scales.ts";
import { openModel } from "../../models/open_model.ts";
import { LoadedModel } from "../golden/_session.ts";

const [folder = "", out = ""] = Deno.args;
const files = await openModel(folder);
using model = await LoadedModel.open(files);
const tokens = Array.from({ length: 40 }, (_, i) => (37 * i * i + 11 * i + 5) % files.config.vocabSize);
const scales = nativeKvScales(files.kvCache.scales.layers, files.config.numKvHeads);
const run = (dtype: "fp8_e4m3" | "float32") => {
  using session = model.session(dtype, 256, dtype === "fp8_e4m3" ? scales : null);
  return tokens.map((token) => [...session.feed([token])]);
};
Deno.writeTextFileSync(out, JSON.stringify({ tokens, logits: run("fp8_e4m3"), exact: run("float32") }));
