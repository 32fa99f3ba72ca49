import { assertLess } from "@std/assert";
import { openDevice } from "../../ffi/library.ts";
import { fetchDemoModel, gemmaPath } from "../../models/demo.ts";
import { openModel } from "../../models/open_model.ts";
import { compareSession, readGoldens } from "./_goldens.ts";
import { type KvDtype, LoadedModel } from "./_session.ts";

/** Why there is no GPU to test on, or null. */
const whyNot = await openDevice("cuda").then(({ library }) => {
  library.close();
  return null;
}, (error: Error) => error.message.split("\n")[0]!);

/** A model, its goldens and how far 16-bit activations may take a top logit from transformers' f32. */
interface GpuCase {
  readonly name: string;
  readonly path: () => Promise<string>;
  readonly goldens: string;
  readonly kvDtype: KvDtype;
  readonly tolerance: number;
}

// Not tests/data/tiny: its heads of 32 have no kernel on a GPU.
const CASES: readonly GpuCase[] = [
  {
    name: "SmolLM2 in float16",
    path: fetchDemoModel,
    goldens: "smollm2_logits.json",
    kvDtype: "float16",
    tolerance: 0.15,
  },
  {
    name: "Gemma-3-270m in bfloat16",
    path: () => Promise.resolve(gemmaPath()),
    goldens: "gemma3_logits.json",
    kvDtype: "bfloat16",
    tolerance: 0.5,
  },
];

for (const { name, path, goldens, kvDtype, tolerance } of CASES) {
  const isThere = whyNot === null && await path().then((found) => Deno.stat(found)).then(() => true, () => false);
  const reason = whyNot ?? "its file is not there";
  Deno.test({
    name: `${name} has transformers' logits and greedy tokens on a GPU${isThere ? "" : ` (skipped: ${reason})`}`,
    ignore: !isThere,
    async fn() {
      using model = await LoadedModel.open(await openModel(await path()), { backend: "cuda" });
      for (const golden of await readGoldens(goldens)) {
        const worst = compareSession(model, golden, { kvDtype, tolerance });
        console.log(`${name}, ${golden.name}: largest difference of a top logit ${worst.toFixed(4)}`);
        using whole = model.session(kvDtype);
        using single = model.session(kvDtype);
        const inOneStep = whole.feed(golden.ids);
        let byToken = inOneStep;
        for (const id of golden.ids) byToken = single.feed([id]);
        const apart = inOneStep.reduce((most, logit, i) => Math.max(most, Math.abs(logit - byToken[i]!)), 0);
        assertLess(apart, tolerance, `${golden.name}: prefill and decode`);
      }
    },
  });
}
