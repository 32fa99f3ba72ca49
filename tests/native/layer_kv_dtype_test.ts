import { assertEquals, assertNotEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { Library } from "../../ffi/library.ts";
import { NativeModel, type NativeModelConfig } from "../../ffi/native_model.ts";
import { libraryPath } from "./_library.ts";
import { loadModel, makeRandomModel, openEngine, randomTokens, runStep } from "./_random_model.ts";

const library = new Library(libraryPath());
type LayerKvDtype = NativeModelConfig["layers"][number]["kvDtype"];

function modelWith(...kvDtypes: LayerKvDtype[]) {
  return makeRandomModel({
    config: { layers: kvDtypes.map((kvDtype) => ({ slidingWindow: 0, ropeTable: 0 as const, kvDtype })) },
  });
}

function logitsOf(kvDtypes: LayerKvDtype[], settings: Parameters<typeof openEngine>[1], windows = [0, 0]): number[] {
  const layers = kvDtypes.map((kvDtype, i) => ({ slidingWindow: windows[i]!, ropeTable: 0 as const, kvDtype }));
  const model = makeRandomModel({ config: { layers } });
  using native = loadModel(library, model);
  using engine = openEngine(native, settings);
  const prompt = randomTokens(37, model.config.vocabSize, 5);
  return Array.from(runStep(engine, [{ tokens: prompt, pages: [0, 1, 2] }])[0]!);
}

Deno.test("octavo_step() stores a layer's KV in the layer's own dtype, else in the engine's", () => {
  const exact = logitsOf([undefined, undefined], { kvDtype: "float32" });
  const int8 = logitsOf([undefined, undefined], { kvDtype: "int8" });
  assertNotEquals(int8, exact);
  assertEquals(logitsOf(["float32", "float32"], { kvDtype: "int8" }), exact);
  assertEquals(logitsOf(["int8", undefined], { kvDtype: "int8" }), int8);
  assertEquals(
    logitsOf(["float32", undefined], { kvDtype: "int8" }),
    logitsOf([undefined, "int8"], { kvDtype: "float32" }),
  );
  const mixed = logitsOf(["float32", undefined], { kvDtype: "int8" });
  for (const other of [exact, int8]) assertNotEquals(mixed, other);
});

Deno.test("octavo_step() takes each layer's own window when another layer has another dtype", () => {
  const settings = { kvDtype: "int8" } as const;
  const of = (windows: number[]) => logitsOf(["float32", undefined], settings, windows);
  // Equal where the window holds all 37 tokens, so that both come from the layer and not from a group of layers.
  assertEquals(of([64, 0]), of([0, 0]));
  assertEquals(of([0, 64]), of([0, 0]));
  const all = [of([0, 0]), of([9, 0]), of([0, 9]), of([9, 9])].map((logits) => logits.join());
  assertEquals(new Set(all).size, 4);
});

Deno.test("octavo_engine_create() uses kv_scales in the layers whose format takes them", () => {
  const ones = new Float32Array(2 * 2 * 2).fill(1);
  const kvScales = ones.map((_, i) => i < 4 ? 1 : 0.02);
  const own = logitsOf([undefined, "fp8_per_token_head"], { kvDtype: "fp8_e4m3" });
  assertEquals(logitsOf([undefined, "fp8_per_token_head"], { kvDtype: "fp8_e4m3", kvScales }), own);
  assertNotEquals(
    logitsOf([undefined, undefined], { kvDtype: "fp8_e4m3", kvScales }),
    logitsOf([undefined, undefined], { kvDtype: "fp8_e4m3" }),
  );
  // The first step's scales are those of FP8 layers; the others keep 1.
  const model = modelWith(undefined, "bfloat16");
  using native = loadModel(library, model);
  using engine = openEngine(native, { kvDtype: "fp8_e4m3", calculateKvScales: true });
  runStep(engine, [{ tokens: randomTokens(9, model.config.vocabSize, 5), pages: [0] }]);
  const scales = Array.from(engine.kvScales());
  assertEquals(scales.map((scale) => scale === 1), [false, false, false, false, true, true, true, true]);
});

Deno.test("octavo_kv_page_bytes() adds up the layers' own page sizes", () => {
  const bytes = (kvDtypes: LayerKvDtype[], kvDtype: NonNullable<LayerKvDtype>) => {
    using native = loadModel(library, modelWith(...kvDtypes));
    return native.kvPageBytes(kvDtype, 16);
  };
  const { numKvHeads, headDim } = modelWith(undefined, undefined).config;
  const layer = (elementBytes: number, scaleBytes = 0) =>
    numKvHeads * 2 * 16 * (Math.ceil(headDim * elementBytes / 16) * 16 + scaleBytes);
  assertEquals(bytes([undefined, undefined], "fp8_e4m3"), 2 * layer(1));
  assertEquals(bytes([undefined, "bfloat16"], "fp8_e4m3"), layer(1) + layer(2));
  assertEquals(bytes(["int8", "float32"], "fp8_e4m3"), layer(1, 4) + layer(4));
});

Deno.test("octavo_model_create() refuses a layer's kv_dtype that there is not", () => {
  const { config } = modelWith(undefined, undefined);
  for (const kvDtype of [-2, 99]) {
    const symbols = {
      ...library.symbols,
      octavo_model_create: (a: BufferSource, b: BufferSource, c: BufferSource) => {
        new Int32Array((b as Uint8Array<ArrayBuffer>).buffer)[5] = kvDtype;
        return library.symbols.octavo_model_create(a, b, c);
      },
    };
    const spoiled = Object.create(library, { symbols: { value: symbols } }) as Library;
    const error = assertThrows(() => new NativeModel(spoiled, config));
    assertStringIncludes((error as Error).message, `kv_dtype of layer 1 must be -1 to 9, found ${kvDtype}`);
  }
});
