import { assert, assertEquals, assertThrows } from "@std/assert";
import { STATUS } from "../../ffi/enums.ts";
import { Library } from "../../ffi/library.ts";
import { NativeModel, type NativeModelConfig, type NativeTensor } from "../../ffi/native_model.ts";
import { TENSOR } from "../../ffi/structs.ts";
import { type Isa, libraryPath, openEachIsa, withIsaCopy } from "./_library.ts";
import {
  loadModel,
  makeRandomModel,
  openEngine,
  type RandomModelOptions,
  randomTokens,
  runStep,
} from "./_random_model.ts";
import { referenceLogits } from "./_reference_model.ts";

const library = new Library(libraryPath());

/** The library once for each code path of this machine. */
function openLibraries(): Library[] {
  const isas = openEachIsa(["octavo_abi_version"]).map((each): Isa => {
    each.close();
    return each.isa;
  });
  return isas.map((isa) =>
    withIsaCopy(isa, (path) => {
      const copy = new Library(path);
      assertEquals(copy.deviceInfo().isa, isa);
      return copy;
    })
  );
}

const WINDOWED: NativeModelConfig["layers"] = [
  { slidingWindow: 5, ropeTable: 0 },
  { slidingWindow: 0, ropeTable: 0 },
];
const SANDWICH = ["attn_post_norm", "ffn_post_norm"] as const;

/** What each architecture adds to Llama. */
const ARCHITECTURES: Record<string, RandomModelOptions> = {
  "llama": {},
  "llama from GGUF, pairs side by side, with RoPE factors": { interleaved: true, roles: ["rope_factors"] },
  "llama in float16 with an output head of its own": { dtype: "F16", untied: true },
  "llama in float32 and bfloat16, mixed within a layer": { secondDtype: "BF16", interleaved: true },
  "mistral, windows on every layer": {
    config: { layers: WINDOWED.map((layer) => ({ ...layer, slidingWindow: 7 })) },
  },
  "qwen2, QKV bias": { roles: ["q_bias", "k_bias", "v_bias"], interleaved: true },
  "qwen3 in bfloat16, q and k norms": { roles: ["q_norm", "k_norm"], dtype: "BF16" },
  "gemma2, sandwich norms, GeGLU, soft-caps, scaled embedding, norm offset, a window": {
    roles: SANDWICH,
    config: {
      activation: "gelu_tanh",
      attnLogitSoftcap: 2,
      finalLogitSoftcap: 3,
      embeddingScale: Math.fround(Math.sqrt(72)),
      normWeightOffset: 1,
      layers: WINDOWED,
    },
  },
  "gemma3, sandwich norms, q and k norms, two RoPE tables": {
    roles: [...SANDWICH, "q_norm", "k_norm"],
    config: {
      activation: "gelu_tanh",
      normWeightOffset: 1,
      layers: [{ slidingWindow: 5, ropeTable: 1 }, { slidingWindow: 0, ropeTable: 0 }],
    },
  },
  "gpt-oss's attention, sinks and biases, YaRN's factor": {
    roles: ["q_bias", "k_bias", "v_bias", "o_bias", "attn_sinks"],
    config: { layers: WINDOWED, ropeAttnFactor: [1.2079, 1] },
  },
};

for (const each of openLibraries()) {
  const { isa } = each.deviceInfo();
  for (const [name, options] of Object.entries(ARCHITECTURES)) {
    Deno.test(`octavo_step() computes the f64 reference's logits on ${isa} for ${name}`, () => {
      const model = makeRandomModel(options);
      const tokens = randomTokens(37, model.config.vocabSize, 5);
      const expected = referenceLogits(model.config, model.weights, tokens);
      using native = loadModel(each, model);
      using engine = openEngine(native);
      let largest = 0;
      tokens.forEach((token, cached) => {
        const [logits] = runStep(engine, [{ tokens: [token], cached, pages: [9, 2, 30] }]);
        logits!.forEach((logit, i) => largest = Math.max(largest, Math.abs(logit - expected[cached]![i]!)));
      });
      const spread = Math.max(...expected.at(-1)!) - Math.min(...expected.at(-1)!);
      assert(spread > 1, `the reference's logits span only ${spread}`);
      assert(largest < 1e-4, `largest error ${largest}`);
    });
  }
}

Deno.test("octavo_model_load_tensor() refuses tensors that do not fit the config or the file", () => {
  const model = makeRandomModel({ roles: ["q_bias"] });
  const find = (role: NativeTensor["role"], layer: number) =>
    model.tensors.find((tensor) => tensor.role === role && tensor.layer === layer)!;
  const path = Deno.makeTempFileSync();
  Deno.writeFileSync(path, model.bytes);
  using native = new NativeModel(library, model.config, { numThreads: 1 });
  assertEquals(native.addFile(path), 0);
  const refused = (role: NativeTensor["role"], layer: number, change: Partial<NativeTensor>, message: string) =>
    assertThrows(() => native.loadTensor({ ...find(role, layer), ...change }), Error, message);
  const size = model.bytes.length;
  refused("q_proj", 1, { rows: 65 }, "q_proj of layer 1 must be 64 x 72, found 65 x 72");
  refused("q_proj", 1, { cols: 71 }, "q_proj of layer 1 must be 64 x 72, found 64 x 71");
  refused("attn_norm", 0, { rows: 72, cols: 1 }, "attn_norm of layer 0 must be 1 x 72, found 72 x 1");
  refused("k_proj", 0, { sizeBytes: 9215 }, "k_proj of layer 0 (32 x 72, dtype 0) must have 9216 bytes, found 9215");
  refused("k_proj", 0, { sizeBytes: -1 }, "must have 9216 bytes, found -1");
  refused("k_proj", 0, { offsetBytes: size - 9215 }, `has only ${size}`);
  refused("k_proj", 0, { offsetBytes: -1 }, "k_proj of layer 0 lies at byte -1 and");
  refused("k_proj", 0, { offsetBytes: Number.MAX_SAFE_INTEGER }, "lies at byte 9007199254740991");
  refused("k_proj", 0, { file: 1 }, "file of k_proj of layer 0 must be 0 to 0, found 1");
  refused("k_proj", 0, { file: -2 }, "found -2");
  refused("k_proj", 0, { file: null }, "k_proj of layer 0 lies in no file, so its dtype must be BF16, found 0");
  refused("k_proj", 0, { layer: 2 }, "layer of k_proj must be 0 to 1, found 2");
  refused("k_proj", 0, { layer: -1 }, "layer of k_proj must be 0 to 1, found -1");
  refused("output_norm", -1, { layer: 0 }, "layer of output_norm must be -1, found 0");
  refused("k_proj", 0, { interleavedHeads: 4 }, "interleaved_heads of k_proj of layer 0 must be 0 or 2, found 4");
  refused("v_proj", 0, { interleavedHeads: 2 }, "interleaved_heads of v_proj of layer 0 must be 0, found 2");
  refused("k_proj", 0, { dtype: "Q4_0", sizeBytes: 1296 }, "does not divide 72 columns");
  native.loadTensor(find("k_proj", 0));
  native.loadTensor(find("output_norm", -1));
  refused("k_proj", 0, {}, "k_proj of layer 0 is given twice");
  refused("output_norm", -1, {}, "output_norm is given twice");
  Deno.removeSync(path);
});

Deno.test("octavo_model_load_tensor() refuses a quantised vector", () => {
  const model = makeRandomModel({ config: { hiddenSize: 64 } });
  const path = Deno.makeTempFileSync();
  Deno.writeFileSync(path, model.bytes);
  using native = new NativeModel(library, model.config, { numThreads: 1 });
  native.addFile(path);
  const norm = model.tensors.find((tensor) => tensor.role === "output_norm")!;
  assertThrows(
    () => native.loadTensor({ ...norm, dtype: "Q8_0", sizeBytes: 68 }),
    Error,
    "output_norm must be F32, F16 or BF16, found dtype 8",
  );
  Deno.removeSync(path);
});

Deno.test("octavo_model_finish() names what is missing and can be called again", () => {
  const model = makeRandomModel({ roles: ["q_norm", "k_norm"] });
  const path = Deno.makeTempFileSync();
  Deno.writeFileSync(path, model.bytes);
  using native = new NativeModel(library, model.config, { numThreads: 1 });
  native.addFile(path);
  const late = [["token_embedding", -1], ["up_proj", 1], ["k_norm", 0]] as const;
  const isLate = (tensor: NativeTensor) => late.some(([role, layer]) => tensor.role === role && tensor.layer === layer);
  for (const tensor of model.tensors) if (!isLate(tensor)) native.loadTensor(tensor);
  const add = (role: string) => native.loadTensor(model.tensors.find((t) => t.role === role && isLate(t))!);
  assertThrows(() => native.finish(), Error, "token_embedding is missing");
  add("token_embedding");
  assertThrows(() => native.finish(), Error, "k_norm of layer 0 is missing, but that of layer 1 is given");
  add("k_norm");
  assertThrows(() => native.finish(), Error, "up_proj of layer 1 is missing");
  assertThrows(() => openEngine(native), Error, "the model is not finished");
  add("up_proj");
  native.finish();
  assertThrows(() => native.finish(), Error, "the model is already finished");
  assert(native.weightBytes > 4 * 101 * 72);
  assertThrows(() => native.addFile(path), Error, "the model is finished");
  assertThrows(() => native.loadTensor(model.tensors[0]!), Error, "the model is finished");
  openEngine(native).close();
  Deno.removeSync(path);
});

Deno.test("octavo_model_load_tensor() refuses a role that is none and scales where there are none", () => {
  using native = new NativeModel(library, makeRandomModel().config, { numThreads: 1 });
  const noScales = { interleaved_heads: 0, num_scales: 0, scale_file: 0, scale_dtype: 0, scale_offset_bytes: 0 };
  const refused = (change: { role?: number; num_scales?: number }, message: string) => {
    const tensor = { role: 1, layer: -1, dtype: 0, file: 0, offset_bytes: 0, size_bytes: 288, rows: 1, cols: 72 };
    const bytes = TENSOR.encode({ ...tensor, ...noScales, ...change });
    const load = () => library.check(library.symbols.octavo_model_load_tensor(native.nativePointer, bytes));
    assertThrows(load, Error, message);
  };
  for (const role of [-1, 4, 15, 34]) refused({ role }, `role must be an octavo_role, found ${role}`);
  refused({ num_scales: 5 }, "num_scales of output_norm must be 0, found 5");
});

Deno.test("octavo_model_finish() refuses RoPE factors that are not above 0", () => {
  const model = makeRandomModel({ roles: ["rope_factors"] });
  const { offsetBytes } = model.tensors.find(({ role }) => role === "rope_factors")!;
  for (const factor of [0, -2, NaN]) {
    new DataView(model.bytes.buffer).setFloat32(offsetBytes + 12, factor, true);
    assertThrows(() => loadModel(library, model), Error, "rope_factors 3 must be above 0, found");
  }
});

Deno.test("functions of handles refuse NULL, and closing it does nothing", () => {
  const { symbols } = library;
  const [bytes, path] = [new Uint8Array(64), new TextEncoder().encode("/\0")];
  const failures: Record<string, number> = {
    add_file: symbols.octavo_model_add_file(null, path) + 2,
    load_tensor: symbols.octavo_model_load_tensor(null, bytes),
    model_finish: symbols.octavo_model_finish(null),
    step: symbols.octavo_step(null, bytes, 64),
    step_submit: symbols.octavo_step_submit(null, bytes, 64),
    step_finish: symbols.octavo_step_finish(null, bytes),
    engine_logits: symbols.octavo_engine_logits(null, 0, bytes),
    engine_kv_scales: symbols.octavo_engine_kv_scales(null, bytes),
  };
  for (const [name, status] of Object.entries(failures)) assertEquals(status, STATUS.INVALID_ARGUMENT, name);
  assertEquals(symbols.octavo_model_weight_bytes(null), 0);
  assertEquals(symbols.octavo_kv_page_bytes(null, 0, 16), 0);
  assertEquals(symbols.octavo_engine_scratch_bytes(null, bytes), 0);
  assertEquals(symbols.octavo_engine_create(null, bytes, null, null), null);
  assertEquals(library.lastError(), "model and config must not be NULL");
  symbols.octavo_model_close(null);
  symbols.octavo_engine_close(null);
});

Deno.test("octavo_model_add_file() refuses what cannot be mapped, naming it", () => {
  using native = new NativeModel(library, makeRandomModel().config, { numThreads: 1 });
  const folder = Deno.makeTempDirSync();
  Deno.writeFileSync(`${folder}/empty`, new Uint8Array());
  assertThrows(() => native.addFile(`${folder}/absent`), Error, `cannot open "${folder}/absent": No such file`);
  assertThrows(() => native.addFile(folder), Error, "it is not a regular file");
  assertThrows(() => native.addFile(`${folder}/empty`), Error, "it is empty");
  Deno.removeSync(folder, { recursive: true });
});

Deno.test("octavo_model_create() refuses settings out of their range", () => {
  const { config } = makeRandomModel();
  const refused = (change: Partial<NativeModelConfig>, message: string) =>
    assertThrows(() => new NativeModel(library, { ...config, ...change }, { numThreads: 1 }), Error, message);
  refused({ vocabSize: 0 }, "vocab_size must be 1 to 16777216, found 0");
  refused({ hiddenSize: -72 }, "hidden_size");
  refused({ intermediateSize: 2 ** 31 - 1 }, "intermediate_size must be 1 to 16777216, found 2147483647");
  refused({ headDim: 12, invFreq: new Float32Array(12) }, "head_dim must be a multiple of 8, found 12");
  refused({ headDim: 264, invFreq: new Float32Array(264) }, "head_dim must be 8 to 256, found 264");
  refused({ numQHeads: 5 }, "num_q_heads must be a multiple of num_kv_heads 2, found 5");
  refused({ numKvHeads: 0 }, "num_kv_heads");
  refused({ maxModelLen: 0 }, "max_model_len");
  refused({ rmsNormEps: 0 }, "rms_norm_eps must be above 0 and finite, found 0");
  refused({ attnSoftmaxScale: Infinity }, "attn_softmax_scale must be above 0 and finite, found inf");
  refused({ attnLogitSoftcap: -1 }, "attn_logit_softcap");
  refused({ finalLogitSoftcap: -1 }, "final_logit_softcap");
  refused({ ropeAttnFactor: [1, Infinity] }, "rope_attn_factor");
  refused({ normWeightOffset: Infinity }, "norm_weight_offset must be finite, found inf");
  refused({ embeddingScale: -Infinity }, "embedding_scale must be finite, found -inf");
  refused(
    { layers: [{ slidingWindow: 0, ropeTable: 2 as 1 }, config.layers[1]!] },
    "rope_table of layer 0 must be 0 or 1",
  );
  refused({ layers: [config.layers[0]!, { slidingWindow: -1, ropeTable: 0 }] }, "sliding_window of layer 1");
  const invFreq = new Float32Array(config.invFreq);
  invFreq[9] = NaN;
  refused({ invFreq }, "inv_freq 1 of table 1 must be finite");
});

Deno.test("octavo_kv_page_bytes() counts all layers, and names an argument out of its range", () => {
  const model = makeRandomModel();
  using native = loadModel(library, model);
  assertEquals(native.kvPageBytes("float32", 16), 2 * 2 * 16 * 2 * 16 * 4);
  assertEquals(native.kvPageBytes("fp8_e4m3", 64), 2 * 2 * 64 * 2 * 16);
  assertThrows(() => native.kvPageBytes("float32", 48), Error, "page_size");
});
