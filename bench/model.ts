/**
 * `deno task bench:model`: prefill and decode tokens a second against context length, for each KV dtype, on one model;
 * llama.cpp's llama-bench beside it in the same run when its folder is given. Prints JSON.
 *
 *     deno task bench:model [MODEL.gguf] [--llama-cpp FOLDER] [--depths 0,512,2048,8192] [--tokens 64] [--repeats 3]
 *         [--kv-dtypes float32,bfloat16,fp8_e4m3] [--chunk 512]
 *
 * @module
 */

import { parseArgs } from "@std/cli";
import { fetchDemoModel } from "../models/demo.ts";
import { openModel } from "../models/open_model.ts";
import { type KvDtype, LoadedModel, type Session } from "../tests/golden/_session.ts";
import { VERSION } from "../version.ts";
import { benchLlamaCpp, ratios, type Row, summary } from "./_rows.ts";

const flags = parseArgs(Deno.args, {
  string: ["llama-cpp", "depths", "tokens", "repeats", "kv-dtypes", "chunk", "_"],
  default: {
    depths: "0,512,2048,8192",
    tokens: "64",
    repeats: "3",
    "kv-dtypes": "float32,bfloat16,fp8_e4m3",
    chunk: "512",
  },
});
const depths = flags.depths.split(",").map(Number);
const [tokens, repeats, chunk] = [flags.tokens, flags.repeats, flags.chunk].map(Number) as [number, number, number];
const modelPath = String(flags._[0] ?? await fetchDemoModel());

/** Token ids that are valid and not all alike. */
function ids(count: number, vocabSize: number, from = 0): number[] {
  return Array.from({ length: count }, (_, i) => ((from + i) * 7919 + 17) % vocabSize);
}

function prefill(session: Session, count: number, vocabSize: number): void {
  for (let done = 0; done < count; done += chunk) session.step(ids(Math.min(chunk, count - done), vocabSize, done));
}

/** @returns Tokens a second. */
function measure(count: number, body: () => void): number {
  const start = performance.now();
  body();
  return count / ((performance.now() - start) / 1000);
}

function benchOctavo(model: LoadedModel, kvDtype: KvDtype): Row[] {
  const { vocabSize } = model.files.config;
  return depths.flatMap((depth) => {
    const speeds: Record<Row["phase"], number[]> = { prefill: [], decode: [] };
    for (let repeat = 0; repeat < repeats; repeat++) {
      using session = model.session(kvDtype, depth + tokens + 16);
      if (depth > 0) speeds.prefill.push(measure(depth, () => prefill(session, depth, vocabSize)));
      let token = session.step([1]);
      speeds.decode.push(measure(tokens, () => {
        for (let i = 0; i < tokens; i++) token = session.step([token]);
      }));
    }
    return (["prefill", "decode"] as const).filter((phase) => speeds[phase].length > 0).map((phase) => ({
      engine: `octavo ${VERSION}`,
      kvDtype,
      phase,
      depth,
      tokensPerSecond: summary(speeds[phase]),
    }));
  });
}

using model = await LoadedModel.open(await openModel(modelPath), {
  maxModelLen: Math.max(...depths) + tokens + 16,
});
const device = model.library.deviceInfo();
const rows = flags["kv-dtypes"].split(",").flatMap((dtype) => benchOctavo(model, dtype as KvDtype));
if (flags["llama-cpp"] !== undefined) {
  rows.push(
    ...await benchLlamaCpp({
      folder: flags["llama-cpp"],
      modelPath,
      threads: device.numCores,
      depths,
      tokens,
      repeats,
    }),
  );
}
const report = { bench: "model", model: model.files.name, device, chunk, tokens, repeats, rows, ratios: ratios(rows) };
console.log(JSON.stringify(report, null, 1));
