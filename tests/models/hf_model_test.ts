import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { architectures } from "../../models/architectures.ts";
import { ModelFileError } from "../../models/errors.ts";
import { openHuggingFaceModel } from "../../models/hf_model.ts";
import { huggingFacePlace } from "../../models/hf_tensor_names.ts";
import { openModel } from "../../models/open_model.ts";
import { dataPath, readJson, withTempFolder } from "./_fixtures.ts";

type Json = Record<string, unknown>;

/** A copy of tests/data/tiny/base in which JSON files are changed; null removes a file. */
function changedModel(folder: string, changes: Record<string, Json | string | null>) {
  for (const { name } of Deno.readDirSync(dataPath("tiny/base"))) {
    Deno.copyFileSync(dataPath(`tiny/base/${name}`), `${folder}/${name}`);
  }
  for (const [name, change] of Object.entries(changes)) {
    const path = `${folder}/${name}`;
    if (change === null) Deno.removeSync(path);
    else if (typeof change === "string") Deno.writeTextFileSync(path, change);
    else {
      const before = (() => {
        try {
          return readJson<Json>(`tiny/base/${name}`);
        } catch {
          return {};
        }
      })();
      Deno.writeTextFileSync(path, JSON.stringify({ ...before, ...change }));
    }
  }
  return openHuggingFaceModel(folder);
}

Deno.test("openModel() reads Hugging Face folders, whole and in shards", async () => {
  const base = await openModel(dataPath("tiny/base"));
  assertEquals([base.name, base.config.architecture, base.config.dtype], ["base", "llama", "bfloat16"]);
  assertEquals([base.eosTokenIds, base.tokenizer.bosTokenId], [[2], 1]);
  assertEquals(base.generationDefaults, {});
  assertEquals(
    base.chatTemplate!.render([{ role: "user", content: "x" }]),
    "<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n",
  );
  assertEquals(base.tensors.length, 3 * 9 + 3);
  const query = base.tensors.find(({ role, layer }) => role === "q_proj" && layer === 2)!;
  assertEquals([query.rows, query.cols, query.dtype, query.interleavedHeads], [128, 128, "BF16", 0]);
  const sharded = await openModel(dataPath("tiny/sharded"));
  assertEquals(sharded.paths.length, 3);
  const bytesOf = ({ paths }: typeof base, { file, offsetBytes, sizeBytes }: typeof query) =>
    Deno.readFileSync(paths[file!]!).slice(offsetBytes, offsetBytes + sizeBytes);
  for (const tensor of base.tensors) {
    const twin = sharded.tensors.find(({ role, layer }) => role === tensor.role && layer === tensor.layer)!;
    assertEquals(bytesOf(sharded, twin), bytesOf(base, tensor));
  }
});

Deno.test("openHuggingFaceModel() gathers ends and sampling defaults from all files", () =>
  withTempFolder((folder) => {
    const model = changedModel(folder, {
      "config.json": { eos_token_id: [5, 6] },
      "generation_config.json": {
        eos_token_id: 7,
        do_sample: false,
        temperature: 0.6,
        top_p: 0.9,
        top_k: 20,
        min_p: 0.1,
        repetition_penalty: 1.1,
      },
      "tokenizer_config.json": { eos_token: { content: "<|endoftext|>" } },
    });
    // 2 is <|im_end|>, with which the template ends a turn.
    assertEquals(model.eosTokenIds, [5, 6, 7, 0, 2]);
    const defaults = { temperature: 0.6, topP: 0.9, topK: 20, minP: 0.1, repetitionPenalty: 1.1 };
    assertEquals(model.generationDefaults, defaults);
  }));

Deno.test("openHuggingFaceModel() finds chat templates wherever they stand", () =>
  withTempFolder((folder) => {
    const rendered = (changes: Record<string, Json | string | null>, tools: unknown[] = []) =>
      changedModel(folder, changes).chatTemplate?.render([], { variables: { tools } });
    const none = { "chat_template.jinja": null };
    assertEquals(rendered({ ...none }), undefined);
    assertEquals(rendered({ ...none, "tokenizer_config.json": { chat_template: "one" } }), "one");
    const named = [{ name: "default", template: "plain" }, { name: "tool_use", template: "tools" }];
    assertEquals(rendered({ ...none, "tokenizer_config.json": { chat_template: named } }), "plain");
    assertEquals(rendered({ ...none, "tokenizer_config.json": { chat_template: named } }, [1]), "tools");
    assertEquals(rendered({ ...none, "chat_template.json": { chat_template: "json" } }), "json");
    assertEquals(
      rendered({ "chat_template.jinja": "jinja", "chat_template.json": { chat_template: "json" } }),
      "jinja",
    );
    const error = assertThrows(
      () =>
        rendered({
          "chat_template.jinja": null,
          "chat_template.json": { chat_template: [{ name: "x", template: "" }] },
        }),
      ModelFileError,
    );
    assert(error.message.includes('must have one named "default", found ["x"]'), error.message);
  }));

Deno.test("openHuggingFaceModel() names the file when one is missing, damaged or does not fit", () =>
  withTempFolder((folder) => {
    const fails = (changes: Record<string, Json | string | null>, file: string, part: string) => {
      const error = assertThrows(() => changedModel(folder, changes), ModelFileError, part);
      assertEquals(error.file, `${folder}/${file}`);
    };
    fails({ "tokenizer.json": null }, "tokenizer.json", "must be there");
    fails({ "tokenizer.json": "{" }, "tokenizer.json", "must be valid JSON");
    fails({ "config.json": "[]" }, "config.json", "must be a JSON object");
    fails({ "model.safetensors": null }, "model.safetensors", "must be there");
    fails(
      { "config.json": { vocab_size: 321 } },
      "model.safetensors",
      "must have the shape [321,128], found [320,128]",
    );
    fails({ "config.json": { num_hidden_layers: 2 } }, "model.safetensors", "must be of one of the 2 layers");
    fails({ "config.json": { num_hidden_layers: 4 } }, "model.safetensors", "the attn_norm tensor of layer 3");
    fails(
      { "config.json": { model_type: "qwen3", head_dim: 32 } },
      "model.safetensors",
      "the q_norm tensor of layer 0",
    );
    fails({ "config.json": { model_type: "qwen2" } }, "model.safetensors", "the q_bias tensor of layer 0");
    fails({ "config.json": { eos_token_id: 320 } }, "config.json", "eos_token_id must be ids from 0 to 319");
    fails({ "config.json": { quantization_config: { quant_method: "awq" } } }, "config.json", "is not supported");
    fails({ "generation_config.json": { top_p: 2 } }, "generation_config.json", "top_p must be a number from");
    fails(
      { "tokenizer_config.json": { bos_token: 3 } },
      "tokenizer_config.json",
      "bos_token must be a token's text, found 3",
    );
    const tied = changedModel(folder, { "config.json": { tie_word_embeddings: true } });
    assertEquals(tied.tensors.some(({ role }) => role === "lm_head"), false);
  }));

/** A copy of tiny/base in which a tensor is FP8 with scales of some shape beside it. */
function fp8Model(folder: string, change: { scaleShape?: number[]; scaleDtype?: string; dtype?: string } = {}) {
  const { scaleShape = [128, 1], scaleDtype = "BF16", dtype = "F8_E4M3" } = change;
  changedModel(folder, {});
  const path = `${folder}/model.safetensors`;
  const bytes = Deno.readFileSync(path);
  const headerBytes = Number(new DataView(bytes.buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + headerBytes)));
  const name = "model.layers.1.self_attn.q_proj.weight";
  const end = Math.max(...Object.values<{ data_offsets: number[] }>(header).map((one) => one.data_offsets?.[1] ?? 0));
  // What lay there stays as a tensor that is not used.
  header["model.layers.1.self_attn.rotary_emb.inv_freq"] = header[name];
  const weightBytes = 128 * 128 * (dtype === "BF16" ? 2 : 1);
  const scaleBytes = scaleShape.reduce((a, b) => a * b, 1) * (scaleDtype === "F32" ? 4 : scaleDtype === "I8" ? 1 : 2);
  header[name] = { dtype, shape: [128, 128], data_offsets: [end, end + weightBytes] };
  const scaleEnd = end + weightBytes + scaleBytes;
  header[`${name}_scale`] = { dtype: scaleDtype, shape: scaleShape, data_offsets: [end + weightBytes, scaleEnd] };
  const text = new TextEncoder().encode(JSON.stringify(header));
  const start = new Uint8Array(8);
  new DataView(start.buffer).setBigUint64(0, BigInt(text.length), true);
  Deno.writeFileSync(path, start);
  for (const part of [text, bytes.subarray(8 + headerBytes), new Uint8Array(weightBytes + scaleBytes)]) {
    Deno.writeFileSync(path, part, { append: true });
  }
  return openHuggingFaceModel(folder);
}

Deno.test("openHuggingFaceModel() finds the scales of FP8 weights", () =>
  withTempFolder((folder) => {
    const scalesOf = (change: Parameters<typeof fp8Model>[1]) => {
      const { tensors } = fp8Model(folder, change);
      const { dtype, scales, offsetBytes, sizeBytes } = tensors.find(({ role, layer }) =>
        role === "q_proj" && layer === 1
      )!;
      assertEquals([dtype, sizeBytes, scales!.offsetBytes - offsetBytes], ["F8_E4M3", 128 * 128, 128 * 128]);
      assertEquals(tensors.filter(({ scales }) => scales !== undefined).length, 1);
      return [scales!.count, scales!.dtype];
    };
    assertEquals(scalesOf({}), [128, "BF16"]);
    assertEquals(scalesOf({ scaleShape: [], scaleDtype: "F32" }), [1, "F32"]);
    assertEquals(scalesOf({ scaleShape: [1] }), [1, "BF16"]);
    const fails = (change: Parameters<typeof fp8Model>[1], message: string) =>
      assertThrows(() => fp8Model(folder, change), ModelFileError, message);
    fails({ scaleShape: [2, 2] }, "must have one value, or one a row");
    fails({ scaleShape: [64] }, "its scales must be 1 or 128, found 64");
    fails({ scaleDtype: "I8" }, "must be F32, F16 or BF16");
    fails({ dtype: "BF16" }, "has scales and must be F8_E4M3");
  }));

Deno.test("openModel() makes weights up from settings alone", async () => {
  await withTempFolder(async (folder) => {
    changedModel(folder, {});
    Deno.removeSync(`${folder}/model.safetensors`);
    const files = await openModel(folder, { loadFormat: "dummy" });
    const real = await openModel(dataPath("tiny/base"));
    const shape = ({ role, layer, rows, cols, sizeBytes }: typeof real.tensors[number]) =>
      JSON.stringify({ role, layer, rows, cols, sizeBytes });
    assertEquals(files.tensors.map(shape).sort(), real.tensors.map(shape).sort());
    assertEquals([files.paths, files.tensors.every(({ file }) => file === null)], [[], true]);
    await assertRejects(() => openModel(`${folder}/x.gguf`, { loadFormat: "dummy" }), Error, "needs a folder with");
  });
});

Deno.test("huggingFacePlace() knows plain, Gemma and multimodal names", () => {
  const { llama, gemma3 } = architectures as Required<Record<"llama" | "gemma3", typeof architectures[string]>>;
  const llamaPlace = (name: string) => huggingFacePlace(name, llama!);
  const gemmaPlace = (name: string) => huggingFacePlace(name, gemma3!);
  assertEquals(llamaPlace("model.layers.12.post_attention_layernorm.weight"), { role: "ffn_norm", layer: 12 });
  assertEquals(gemmaPlace("model.layers.12.post_attention_layernorm.weight"), { role: "attn_post_norm", layer: 12 });
  assertEquals(llamaPlace("model.layers.0.pre_feedforward_layernorm.weight"), undefined);
  for (const prefix of ["model.", "language_model.model.", "model.language_model."]) {
    assertEquals(gemmaPlace(`${prefix}layers.3.self_attn.q_norm.weight`), { role: "q_norm", layer: 3 });
    assertEquals(gemmaPlace(`${prefix}embed_tokens.weight`), { role: "token_embedding", layer: -1 });
  }
  for (const name of ["lm_head.weight", "language_model.lm_head.weight"]) {
    assertEquals(gemmaPlace(name), { role: "lm_head", layer: -1 });
  }
  assertEquals(gemmaPlace("vision_tower.vision_model.embeddings.patch_embedding.weight"), null);
  assertEquals(gemmaPlace("model.multi_modal_projector.mm_input_projection_weight"), null);
  assertEquals(llamaPlace("model.layers.0.self_attn.rotary_emb.inv_freq"), null);
  assertEquals(llamaPlace("model.layers.0.block_sparse_moe.gate.weight"), undefined);
  assertEquals(llamaPlace("transformer.h.0.attn.c_attn.weight"), undefined);
});
