import { assertEquals } from "@std/assert";
import { openModel } from "../../models/open_model.ts";
import { compareWithGolden, type GoldenPrompt } from "./_goldens.ts";
import { LoadedModel } from "./_session.ts";

const DATA = new URL("../data/tiny/", import.meta.url);
const golden = JSON.parse(await Deno.readTextFile(new URL("golden.json", DATA)));

for (const folder of ["base", "sharded"]) {
  Deno.test(`tiny/${folder} (bf16 safetensors) has transformers' logits and greedy tokens`, async () => {
    using model = await LoadedModel.open(await openModel(new URL(folder, DATA).pathname));
    const { exact_kv: exact } = golden.folders.base;
    assertEquals(exact.greedy.length, 16);
    compareWithGolden(model, { name: folder, ids: golden.prompt, ...exact } as GoldenPrompt, 1e-4);
  });
}
