import { assertEquals } from "@std/assert";
import { gemmaPath } from "../../models/demo.ts";
import { openModel } from "../../models/open_model.ts";
import { compareWithGolden, readGoldens } from "./_goldens.ts";
import { LoadedModel } from "./_session.ts";

const path = gemmaPath();
const isThere = await Deno.stat(path).then(() => true, () => false);

Deno.test({
  name:
    "Gemma-3-270m has transformers' logits and greedy tokens with float32 KV (fetch it with: deno task fetch:gemma)",
  ignore: !isThere,
  async fn() {
    using model = await LoadedModel.open(await openModel(path));
    const goldens = await readGoldens("gemma3_logits.json");
    assertEquals(goldens.length, 3);
    for (const golden of goldens) compareWithGolden(model, golden, 2e-2);
  },
});
