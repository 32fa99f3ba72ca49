import { assert, assertEquals, assertThrows } from "@std/assert";
import { ROLE } from "../../ffi/enums.ts";
import { Library } from "../../ffi/library.ts";
import { NativeEngine } from "../../ffi/native_engine.ts";
import type { NativeTensor } from "../../ffi/native_model.ts";
import { libraryPath } from "./_library.ts";
import { loadModel, makeRandomModel, openEngine, type RandomModel, randomTokens, runStep } from "./_random_model.ts";
import { referenceLogits } from "./_reference_model.ts";
import { makeRandom } from "./_sampler.ts";

const library = new Library(libraryPath());

function bfloat16(value: number): number {
  const bits = new Uint32Array(Float32Array.of(value).buffer);
  bits[0] = (bits[0]! + 0x7fff + ((bits[0]! >>> 16) & 1)) & 0xffff0000;
  return new Float32Array(bits.buffer)[0]!;
}

/** Largest difference between the library's logits and the reference's, one token after another. */
function largestError(model: RandomModel): number {
  const tokens = randomTokens(20, model.config.vocabSize, 5);
  const expected = referenceLogits(model.config, model.weights, tokens);
  using native = loadModel(library, model);
  using engine = openEngine(native);
  let largest = 0;
  tokens.forEach((token, cached) => {
    const [logits] = runStep(engine, [{ tokens: [token], cached, pages: [9, 2] }]);
    logits!.forEach((logit, i) => largest = Math.max(largest, Math.abs(logit - expected[cached]![i]!)));
  });
  return largest;
}

const MASK = 2n ** 64n - 1n;
const STEP = 0x9e3779b97f4a7c15n;

function mixBits(x: bigint): bigint {
  x = ((x ^ (x >> 30n)) * 0xbf58476d1ce4e5b9n) & MASK;
  x = ((x ^ (x >> 27n)) * 0x94d049bb133111ebn) & MASK;
  return x ^ (x >> 31n);
}

/** random_weights.h once more: the sum of eight uniform numbers of 16 bits. */
function madeUpValues(seed: number, role: NativeTensor["role"], layer: number, length: number): Float32Array {
  const tensor = BigInt(ROLE[role]) << 32n | BigInt(layer >>> 0);
  const stream = mixBits(mixBits((BigInt(seed) + STEP) & MASK) ^ tensor);
  const scale = Math.fround(Math.fround(0.02) / Math.fround(107018.44));
  return Float32Array.from({ length }, (_, i) => {
    let sum = 0;
    for (const half of [1n, 2n]) {
      const bits = mixBits((stream + (2n * BigInt(i) + half) * STEP) & MASK);
      for (const shift of [0n, 16n, 32n, 48n]) sum += Number((bits >> shift) & 0xffffn);
    }
    return bfloat16(Math.fround((2 * sum - 8 * 0xffff) * scale));
  });
}

/** A model of made-up weights, and their values. */
function madeUpModel(seed: number, normWeightOffset = 0): RandomModel {
  const config = { normWeightOffset, vocabSize: 40, hiddenSize: 64, intermediateSize: 48 };
  const shape = makeRandomModel({ config, dtype: "BF16", roles: ["q_bias", "k_bias", "v_bias"], untied: true });
  const tensors = shape.tensors.map((tensor) => ({ ...tensor, file: null, offsetBytes: seed }));
  const values = tensors.map(({ role, layer, rows, cols }): [string, Float32Array] => [
    layer < 0 ? role : `${role}.${layer}`,
    role.endsWith("norm")
      ? new Float32Array(cols).fill(1 - normWeightOffset)
      : madeUpValues(seed, role, layer, rows * cols),
  ]);
  return { ...shape, tensors, weights: new Map(values) };
}

Deno.test("octavo_model_load_tensor() makes up weights from a seed, normal with deviation 0.02, norms 1", () => {
  const values = madeUpValues(7, "q_proj", 0, 20_000);
  const mean = values.reduce((sum, x) => sum + x, 0) / values.length;
  const deviation = Math.sqrt(values.reduce((sum, x) => sum + x * x, 0) / values.length);
  assert(Math.abs(mean) < 5e-4 && Math.abs(deviation - 0.02) < 3e-4, `mean ${mean}, deviation ${deviation}`);
  assert(largestError(madeUpModel(7)) < 1e-5);
  assert(largestError(madeUpModel(7, 1)) < 1e-5);
  const other = { ...madeUpModel(8), weights: madeUpModel(7).weights };
  assert(largestError(other) > 1e-3, "another seed gives the same model");
});

/** The values of E4M3FN's codes 0 to 127. */
function e4m3(code: number): number {
  const [exponent, mantissa] = [(code >> 3) & 15, code & 7];
  return exponent === 0 ? mantissa * 2 ** -9 : (1 + mantissa / 8) * 2 ** (exponent - 7);
}

/** Turns the matrices of a random model into FP8 with scales behind them. */
function fp8Model(scalesPerMatrix: "one" | "rows", dtype: "F32" | "F16" | "BF16"): RandomModel {
  const model = makeRandomModel({ untied: true });
  const random = makeRandom(3);
  const parts: Uint8Array[] = [model.bytes];
  let end = model.bytes.length;
  const append = (bytes: Uint8Array) => {
    parts.push(bytes);
    end += bytes.length;
    return end - bytes.length;
  };
  const weights = new Map(model.weights);
  const tensors = model.tensors.map((tensor): NativeTensor => {
    const { role, layer, rows, cols } = tensor;
    if (rows === 1 || role === "token_embedding" || role === "lm_head") return tensor;
    const codes = Uint8Array.from({ length: rows * cols }, () => Math.floor(random() * 256)).map((code) =>
      (code & 127) === 127 ? code - 1 : code
    );
    const count = scalesPerMatrix === "one" ? 1 : rows;
    const scales = Float32Array.from({ length: count }, () => (1 + Math.floor(random() * 64) / 64) * 2 ** -10);
    const stored = dtype === "F32"
      ? scales
      : dtype === "F16"
      ? new Float16Array(scales)
      : new Uint16Array(scales.buffer).filter((_, i) => i % 2 === 1);
    const values = Float32Array.from(codes, (code, i) => {
      const value = e4m3(code & 127) * (code < 128 ? 1 : -1);
      return bfloat16(value * scales[count === 1 ? 0 : Math.floor(i / cols)]!);
    });
    weights.set(`${role}.${layer}`, values);
    const offsetBytes = append(codes);
    const scaleOffset = append(new Uint8Array(stored.buffer));
    return {
      ...tensor,
      dtype: "F8_E4M3",
      offsetBytes,
      sizeBytes: codes.length,
      scales: { file: 0, dtype, offsetBytes: scaleOffset, count },
    };
  });
  const bytes = new Uint8Array(end);
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return { ...model, weights, tensors, bytes };
}

Deno.test("octavo_model_load_tensor() reads FP8 weights with one scale or one a row, of each dtype", () => {
  for (const [count, dtype] of [["one", "F32"], ["rows", "F32"], ["rows", "BF16"], ["one", "F16"]] as const) {
    const error = largestError(fp8Model(count, dtype));
    assert(error < 1e-4, `${count}, ${dtype}: largest error ${error}`);
  }
});

Deno.test("octavo_model_load_tensor() refuses FP8 weights whose scales do not fit", () => {
  const model = fp8Model("rows", "F32");
  const refused = (change: (tensor: NativeTensor) => NativeTensor, message: string) => {
    const tensors = model.tensors.map((tensor) => tensor.role === "o_proj" ? change(tensor) : tensor);
    assertThrows(() => loadModel(library, { ...model, tensors }), Error, message);
  };
  const withScales = (change: Partial<NonNullable<NativeTensor["scales"]>>) => (tensor: NativeTensor) => ({
    ...tensor,
    scales: { ...tensor.scales!, ...change },
  });
  refused(withScales({ count: 2 }), "num_scales of o_proj of layer 0 must be 1 or 72, found 2");
  refused(withScales({ file: 1 }), "file of scales of o_proj of layer 0 must be 0 to 0, found 1");
  refused(withScales({ offsetBytes: model.bytes.length - 280 }), "scales of o_proj of layer 0 lies at byte");
  refused((tensor) => ({ ...tensor, scales: { ...tensor.scales!, dtype: "Q8_0" as "F32" } }), "found dtype 8");
  const { offsetBytes } = model.tensors.find(({ role }) => role === "o_proj")!.scales!;
  new DataView(model.bytes.buffer).setFloat32(offsetBytes + 8, NaN, true);
  assertThrows(() => loadModel(library, model), Error, "scale 2 of o_proj of layer 0 must be finite and at least 0");
});

Deno.test("octavo_engine_scratch_bytes() grows with tokens and sequences of a step", () => {
  using native = loadModel(library, makeRandomModel());
  const limits = { kvDtype: "float32", pageSize: 16, numPages: 1, maxPagesPerSeq: 4, numThreads: 1 } as const;
  const bytes = (maxNumSeqs: number, maxNumBatchedTokens: number) =>
    NativeEngine.scratchBytes(native, { ...limits, maxNumSeqs, maxNumBatchedTokens, maxLogprobs: 0, maxLogitEdits: 0 });
  const seqBytes = 4 * (native.config.hiddenSize + native.config.vocabSize);
  assertEquals(bytes(3, 8) - bytes(1, 8), 2 * seqBytes);
  assert(bytes(1, 16) - bytes(1, 8) > 8 * 4 * 3 * native.config.hiddenSize);
  assertThrows(() => bytes(0, 8), Error, "max_num_seqs must be 1 to 1048576, found 0");
});
