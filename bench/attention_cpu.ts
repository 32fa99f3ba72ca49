/**
 * Times paged attention, KV append and a plain read of the same bytes on the CPU, through the C ABI.
 *
 * ```
 * deno run -A bench/attention_cpu.ts [--shape smollm2|llama8b] [--threads 0] [--dtypes fp8_e4m3,bfloat16]
 *   [--depths 2048,8192] [--chunks 1,512] [--page-size 16] [--seconds 2]
 * ```
 *
 * Prints one JSON line a measurement: a step of `chunk` tokens behind `depth` tokens through all layers, each with
 * pages of its own in random order. `ms` is the least of all repetitions, `median_ms` the median. `gb_s` counts the K
 * and V bytes of the visible tokens, once a step; `gflop_s` two operations a multiply-add, visible keys only.
 *
 * @module
 */
import { parseArgs } from "@std/cli";
import { DTYPE, KV_DTYPE } from "../ffi/enums.ts";
import { type Library, openLibrary } from "../ffi/library.ts";
import { ATTENTION_CONFIG, KV_SHAPE } from "../ffi/structs.ts";

const SHAPES = {
  smollm2: { layers: 30, qHeads: 9, kvHeads: 3, headDim: 64 },
  llama8b: { layers: 4, qHeads: 32, kvHeads: 8, headDim: 128 },
} as const;

interface Setup {
  readonly shape: typeof SHAPES[keyof typeof SHAPES];
  readonly dtype: keyof typeof KV_DTYPE;
  readonly pageSize: number;
  readonly threads: number;
  readonly depth: number;
  readonly chunk: number;
  readonly seconds: number;
}

function randomFloats(n: number): Float32Array<ArrayBuffer> {
  return Float32Array.from({ length: n }, () => (Math.random() + Math.random() + Math.random() - 1.5) * 2);
}

/** Page ids 0 to n - 1 in random order. */
function randomPages(n: number): Int32Array<ArrayBuffer> {
  const keys = Float64Array.from({ length: n }, Math.random);
  return Int32Array.from({ length: n }, (_, i) => i).sort((a, b) => keys[a]! - keys[b]!);
}

/** Repeats body for some seconds; returns the least and the median time in ms. */
function time(seconds: number, body: () => void): { ms: number; median_ms: number } {
  body();
  const times: number[] = [];
  for (const end = performance.now() + seconds * 1000; performance.now() < end || times.length < 3;) {
    const start = performance.now();
    body();
    times.push(performance.now() - start);
  }
  times.sort((a, b) => a - b);
  const round = (ms: number) => Number(ms.toPrecision(4));
  return { ms: round(times[0]!), median_ms: round(times[times.length >> 1]!) };
}

/** Pages of every layer, filled with the same random tokens, each layer in an order of its own. */
function fillPages(library: Library, setup: Setup, kvShape: Uint8Array<ArrayBuffer>, numPages: number) {
  const { shape, pageSize, depth, chunk } = setup;
  const bytes = library.symbols.octavo_kv_layer_page_bytes(kvShape) * numPages;
  const first = new Uint8Array(bytes);
  const width = shape.kvHeads * shape.headDim;
  for (let token = 0; token < depth + chunk; token += 512) {
    const n = Math.min(512, depth + chunk - token);
    const slots = Int32Array.from({ length: n }, (_, i) => token + i);
    library.check(
      library.symbols.octavo_kv_append(
        kvShape,
        first,
        randomFloats(n * width),
        randomFloats(n * width),
        slots,
        n,
        null,
        null,
      ),
    );
  }
  return Array.from({ length: shape.layers }, () => ({ pages: first.slice(), table: randomPages(numPages), pageSize }));
}

function measure(library: Library, setup: Setup) {
  const { shape, depth, chunk, pageSize, threads } = setup;
  const numPages = Math.ceil((depth + chunk) / pageSize);
  const kvShape = KV_SHAPE.encode({
    kv_dtype: KV_DTYPE[setup.dtype],
    page_size: pageSize,
    num_pages: numPages,
    num_kv_heads: shape.kvHeads,
    head_dim: shape.headDim,
    page_stride: 0,
  });
  const config = ATTENTION_CONFIG.encode({
    num_seqs: 1,
    num_tokens: chunk,
    num_q_heads: shape.qHeads,
    max_pages_per_seq: numPages,
    sliding_window: 0,
    num_threads: threads,
    softmax_scale: 1 / Math.sqrt(shape.headDim),
    logit_softcap: 0,
    q_dtype: DTYPE.F32,
    max_query_len: 0,
    reuse_plan: 0,
    reserved: 0,
  });
  const layers = fillPages(library, setup, kvShape, numPages);
  const q = randomFloats(chunk * shape.qHeads * shape.headDim);
  const out = new Float32Array(q.length);
  const queryLen = Int32Array.of(chunk);
  const seqLen = Int32Array.of(depth + chunk);
  const attention = time(setup.seconds, () => {
    for (const { pages, table } of layers) {
      library.check(
        library.symbols.octavo_paged_attention(
          kvShape,
          config,
          pages,
          q,
          queryLen,
          seqLen,
          table,
          null,
          null,
          out,
          null,
        ),
      );
    }
  });
  const k = randomFloats(chunk * shape.kvHeads * shape.headDim);
  const slots = Int32Array.from({ length: chunk }, (_, i) => depth + i);
  const append = time(setup.seconds / 10, () => {
    for (const { pages } of layers) {
      library.check(library.symbols.octavo_kv_append(kvShape, pages, k, k, slots, chunk, null, null));
    }
  });
  const elementBytes = setup.dtype === "float32" ? 4 : setup.dtype.startsWith("fp8") ? 1 : 2;
  const visible = chunk * depth + chunk * (chunk + 1) / 2;
  const kvBytes = shape.layers * (depth + chunk) * shape.kvHeads * shape.headDim * 2 * elementBytes;
  const flops = shape.layers * visible * shape.qHeads * shape.headDim * 4;
  return {
    ...attention,
    gb_s: Number((kvBytes / attention.ms / 1e6).toPrecision(3)),
    gflop_s: Number((flops / attention.ms / 1e6).toPrecision(3)),
    append_ms: append.ms,
  };
}

const args = parseArgs(Deno.args, {
  string: ["shape", "threads", "dtypes", "depths", "chunks", "page-size", "seconds"],
  default: {
    shape: "smollm2",
    threads: "0",
    dtypes: "fp8_e4m3,bfloat16",
    depths: "2048,8192",
    chunks: "1,512",
    "page-size": "16",
    seconds: "2",
  },
});
if (!(args.shape in SHAPES)) {
  throw new Error(`expected --shape ${Object.keys(SHAPES).join(" or ")}, found ${args.shape}`);
}
const numbers = (list: string) => list.split(",").map(Number);

using library = await openLibrary("cpu");
const { name, isa, numCores } = library.deviceInfo();
for (const chunk of numbers(args.chunks)) {
  for (const depth of numbers(args.depths)) {
    const msOf: Record<string, number> = {};
    for (const dtype of args.dtypes.split(",")) {
      if (!(dtype in KV_DTYPE)) throw new Error(`expected --dtypes among ${Object.keys(KV_DTYPE)}, found ${dtype}`);
      const setup: Setup = {
        shape: SHAPES[args.shape as keyof typeof SHAPES],
        dtype: dtype as keyof typeof KV_DTYPE,
        pageSize: Number(args["page-size"]),
        threads: Number(args.threads),
        depth,
        chunk,
        seconds: Number(args.seconds),
      };
      const result = measure(library, setup);
      msOf[dtype] = result.ms;
      const fp8PerBfloat16 = msOf["fp8_e4m3"] !== undefined && msOf["bfloat16"] !== undefined
        ? { fp8_per_bf16: Number((msOf["fp8_e4m3"] / msOf["bfloat16"]).toPrecision(3)) }
        : {};
      console.log(JSON.stringify({
        machine: name,
        cores: numCores,
        isa,
        shape: args.shape,
        dtype,
        threads: setup.threads || numCores,
        page_size: setup.pageSize,
        depth,
        chunk,
        ...result,
        ...fp8PerBfloat16,
      }));
    }
  }
}
