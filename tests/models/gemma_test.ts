import { assertEquals } from "@std/assert";
import { cacheFolder } from "../../models/cache_folder.ts";
import { openModel } from "../../models/open_model.ts";
import { readJson } from "./_fixtures.ts";

/** Where scripts/fetch_gemma.ts puts the model; null while it is not there. */
function gemmaPath(): string | null {
  const path = `${cacheFolder()}/gemma-3-270m-q4_k_m.gguf`;
  try {
    Deno.statSync(path);
    return path;
  } catch {
    return null;
  }
}

const path = gemmaPath();

Deno.test({
  name: "openModel() reads Gemma-3-270m and its tokenizer when it has been fetched",
  ignore: path === null,
  async fn() {
    const { config, tokenizer, tensors, chatTemplate, eosTokenIds } = await openModel(path!);
    assertEquals([config.architecture, config.numLayers, config.headDim, config.numKvHeads], ["gemma3", 18, 256, 1]);
    assertEquals(config.layers.map((layer) => layer.slidingWindow === 0).indexOf(true), 5);
    assertEquals([tensors.length, chatTemplate, eosTokenIds, tokenizer.bosTokenId], [236, null, [1], 2]);
    const { encode } = readJson<{ encode: [string, number[]][] }>("gemma3/tokenizer_golden.json");
    for (const [text, ids] of encode) {
      assertEquals(tokenizer.encode(text).slice(0, ids.length), ids, JSON.stringify(text));
    }
  },
});
