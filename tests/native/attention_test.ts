import { assertEquals, assertStringIncludes } from "@std/assert";
import { DTYPE, KV_DTYPE, STATUS } from "../../ffi/enums.ts";
import { ATTENTION_CONFIG } from "../../ffi/structs.ts";
import {
  assertExact,
  assertSameBits,
  attend,
  F32_BOUNDS,
  type Heads,
  LIBRARIES,
  type Library,
  makeSequence,
  type Part,
  type Result,
  type Sequence,
} from "./_attention.ts";
import { codeBytes, elementBytes, encodeShape, hasOwnScales, KV_DTYPES, type KvDtype } from "./_kv.ts";
import { packedBytes, pageBytes, randomNumbers, takesHeadDim } from "./_kv.ts";

/** SmolLM2's ratio of heads. */
const GQA3: Heads = { kvDtype: "fp8_e4m3", headDim: 64, numKvHeads: 2, numQHeads: 6 };
const UNEQUAL_SCALES = new Float32Array([0.5, 0.25, 2, 4]);
/** Around every edge of granules, pages, tiles and splits. */
const LENGTHS = [1, 15, 16, 17, 31, 33, 63, 64, 65, 511, 512, 513, 1000];

function whole(sequence: Sequence): Part {
  return { sequence, begin: 0, end: sequence.length };
}

function lastToken(sequence: Sequence): Part {
  return { sequence, begin: sequence.length - 1, end: sequence.length };
}

/** Rows [begin, end) of a result with one row a token. */
function rowsOf(result: Result, heads: Heads, begin: number, end: number): Result {
  const width = heads.numQHeads * heads.headDim;
  return {
    out: result.out.slice(begin * width, end * width),
    lse: result.lse.slice(begin * heads.numQHeads, end * heads.numQHeads),
  };
}

/** Heads with unequal scales, where the format takes scales. */
function scaledHeads(kvDtype: KvDtype): Heads {
  return hasOwnScales(kvDtype) ? { ...GQA3, kvDtype } : { ...GQA3, kvDtype, scales: UNEQUAL_SCALES };
}

/** Whether NaN is a matter of scales, not of single codes. */
function hasNanScalesOnly(kvDtype: KvDtype): boolean {
  return hasOwnScales(kvDtype) && kvDtype !== "fp8_per_token_head";
}

/** Makes element 5 of a row NaN, or, in formats without NaN, all of the row by its scales. */
function spoilRow(rows: Uint8Array, { kvDtype, headDim }: Heads, part: "k" | "v", row: number) {
  const rowBytes = packedBytes(kvDtype, headDim, part);
  const at = row * rowBytes;
  if (hasNanScalesOnly(kvDtype)) rows.fill(0xff, at + codeBytes(kvDtype, headDim, part), at + rowBytes);
  else rows.fill(0xff, at + 5 * elementBytes(kvDtype), at + 6 * elementBytes(kvDtype));
}

for (const library of LIBRARIES) {
  const test = (name: string, body: () => void) => Deno.test(`octavo_paged_attention() ${name} (${library.isa})`, body);
  const make = (heads: Heads, length: number, options = {}) => makeSequence(library, heads, length, options);

  for (const kvDtype of KV_DTYPES) {
    test(`decodes ${kvDtype} at every length, past poison`, () => {
      const heads = scaledHeads(kvDtype);
      const parts = LENGTHS.map((length) => lastToken(make(heads, length)));
      const result = attend(library, heads, parts, { pageSize: 16, poison: 0x7f });
      assertExact(library, heads, parts, result);
      for (const [pageSize, poison] of [[16, 0xff], [32, 0x7f], [64, 0xff], [64, 0x7c]] as const) {
        assertSameBits(attend(library, heads, parts, { pageSize, poison, seed: pageSize }), result, `page ${pageSize}`);
      }
    });

    test(`prefills ${kvDtype}`, () => {
      const heads = scaledHeads(kvDtype);
      const sequences = [1, 17, 70, 200].map((length) => make(heads, length));
      const parts = [...sequences.slice(0, 3).map(whole), { sequence: sequences[3]!, begin: 130, end: 187 }];
      const result = attend(library, heads, parts, { poison: 0x7f });
      assertExact(library, heads, parts, result);
    });
  }

  test("reads 4097 keys", () => {
    const heads = { ...GQA3, numKvHeads: 1, numQHeads: 2 };
    const parts = [lastToken(make(heads, 4097))];
    assertExact(library, heads, parts, attend(library, heads, parts, { numThreads: 2 }));
  });

  test("gives the same bits from every format that holds the values exactly", () => {
    // Codes of E5M2 with little exponent: numbers of E4M3 and of all wider formats too.
    const length = 150;
    const heads = (kvDtype: KvDtype): Heads => ({ ...GQA3, kvDtype });
    const { q } = make(heads("float32"), length);
    const random = randomNumbers(8);
    const [k, v] = [0, 1].map(() =>
      Float32Array.from({ length: length * 2 * 64 }, () => {
        const [mantissa, exponent] = [Math.floor(4 * random()), Math.floor(4 * random())];
        return (random() < 0.5 ? -1 : 1) * (1 + mantissa / 4) * 2 ** (exponent - 2);
      })
    );
    const resultOf = (kvDtype: KvDtype) => {
      const store = (values: Float32Array<ArrayBuffer>) => {
        const stored = new Uint8Array(values.length * elementBytes(kvDtype));
        library.check(library.symbols.octavo_quantize(KV_DTYPE[kvDtype], values, values.length, 1, stored));
        return stored;
      };
      const sequence = { length, q, k: store(k!), v: store(v!) };
      return attend(library, heads(kvDtype), [whole(sequence)]);
    };
    const exact = resultOf("float32");
    for (const kvDtype of ["float16", "bfloat16", "fp8_e4m3", "fp8_e5m2"] as const) {
      assertSameBits(resultOf(kvDtype), exact, kvDtype);
    }
  });

  test("takes every head_dim", () => {
    for (let headDim = 8; headDim <= 256; headDim += headDim < 80 || headDim === 248 ? 8 : 24) {
      for (
        const kvDtype of ["fp8_e4m3", "bfloat16", "float32", "fp8_per_token_head", "int8", "k8v4", "int4"] as const
      ) {
        if (!takesHeadDim(kvDtype, headDim)) continue;
        const heads = { kvDtype, headDim, numKvHeads: 2, numQHeads: 2 };
        const parts = [lastToken(make(heads, 70)), whole(make(heads, 19))];
        assertExact(library, heads, parts, attend(library, heads, parts, { pageSize: 32 }));
      }
    }
  });

  test("takes every group of q heads", () => {
    for (const group of [1, 2, 3, 4, 5, 8, 16, 50]) {
      const heads: Heads = { ...GQA3, headDim: 32, numKvHeads: 2, numQHeads: 2 * group };
      const parts = [lastToken(make(heads, 90)), whole(make(heads, 37))];
      assertExact(library, heads, parts, attend(library, heads, parts));
    }
  });

  test("gives the same bits in any batch, page order, page size and number of threads", () => {
    for (const kvDtype of KV_DTYPES) {
      const heads = { ...GQA3, kvDtype, window: kvDtype === "float16" ? 300 : 0 };
      const parts = [
        lastToken(make(heads, 1500)),
        whole(make(heads, 40)),
        lastToken(make(heads, 33)),
        { sequence: make(heads, 700), begin: 590, end: 660 },
      ];
      const batch = attend(library, heads, parts);
      assertSameBits(attend(library, heads, parts, { numThreads: 2 }), batch, "2 threads");
      assertSameBits(attend(library, heads, parts, { numThreads: 5, pageSize: 64, seed: 9 }), batch, "5 threads");
      let row = 0;
      for (const part of parts) {
        const tokens = part.end - part.begin;
        for (const numThreads of [1, 2]) {
          const alone = attend(library, heads, [part], { numThreads, seed: 3, pageSize: 32 });
          assertSameBits(
            alone,
            rowsOf(batch, heads, row, row + tokens),
            `${tokens} tokens alone, ${numThreads} threads`,
          );
        }
        row += tokens;
      }
    }
  });

  test("gives the same bits in any chunks", () => {
    for (
      const [kvDtype, window, length] of [
        ["fp8_e4m3", 0, 600],
        ["bfloat16", 45, 600],
        ["float32", 0, 150],
        ["fp8_e5m2", 0, 150],
        ["float16", 45, 150],
        ["fp8_per_token_head", 0, 150],
        ["int8", 45, 150],
        ["k8v4", 45, 150],
        ["int4", 0, 150],
      ] as const
    ) {
      const heads = { ...GQA3, kvDtype, window };
      const sequence = make(heads, length);
      const all = attend(library, heads, [whole(sequence)]);
      for (const chunk of [1, 15, 16, 17, 511]) {
        const step = chunk === 1 ? 37 : chunk; // single tokens: only some of them
        for (let begin = 0; begin < length; begin += step) {
          const end = Math.min(begin + chunk, length);
          const part = attend(library, heads, [{ sequence, begin, end }], { numThreads: 1 + begin % 2 });
          assertSameBits(part, rowsOf(all, heads, begin, end), `${kvDtype}, chunk of ${chunk} at ${begin}`);
        }
      }
    }
  });

  test("sees only the sliding window", () => {
    for (const window of [1, 2, 15, 16, 17, 64, 65, 500, 512, 2000]) {
      const heads = { ...GQA3, window, scales: UNEQUAL_SCALES };
      const parts = [lastToken(make(heads, 1100)), whole(make(heads, 80)), lastToken(make(heads, window))];
      const result = attend(library, heads, parts);
      assertExact(library, heads, parts, result);
    }
  });

  test("lets NaN through only to the queries that see it", () => {
    for (const kvDtype of KV_DTYPES) {
      for (const part of ["k", "v"] as const) {
        const heads = { ...GQA3, kvDtype, numKvHeads: 1, numQHeads: 2, window: 50 };
        const sequence = make(heads, 150);
        const clean = attend(library, heads, [whole(sequence)]);
        const at = 75;
        const spoiled = { ...sequence, [part]: sequence[part].slice() };
        spoilRow(spoiled[part], heads, part, at);
        const { out } = attend(library, heads, [whole(spoiled)]);
        const wholeRow = hasNanScalesOnly(kvDtype);
        const width = heads.numQHeads * heads.headDim;
        for (const token of [at - 1, at, at + heads.window - 1, at + heads.window]) {
          const alone = attend(library, heads, [{ sequence: spoiled, begin: token, end: token + 1 }]);
          assertEquals(alone.out, out.slice(token * width, (token + 1) * width), `${kvDtype}, token ${token} alone`);
        }
        for (let token = 0; token < 150; token++) {
          const sees = token >= at && token < at + heads.window;
          for (let i = 0; i < width; i++) {
            const expected = sees && (part === "k" || wholeRow || i % heads.headDim === 5)
              ? NaN
              : clean.out[token * width + i];
            assertEquals(out[token * width + i], expected, `${kvDtype}, NaN in ${part}, token ${token}, element ${i}`);
          }
        }
      }
    }
  });

  test("caps logits", () => {
    for (const softcap of [0.5, 5, 50]) {
      const heads = { ...GQA3, softcap, scales: UNEQUAL_SCALES, softmaxScale: 1 };
      const parts = [lastToken(make(heads, 300)), whole(make(heads, 50))];
      // tanh is right to f32's last place below 1, 2^-24, once for exp and once for the quotient; the cap multiplies it.
      const error = F32_BOUNDS.absolute + softcap * 2 ** -23;
      const bounds = { ...F32_BOUNDS, absolute: error, relative: error };
      assertExact(library, heads, parts, attend(library, heads, parts), bounds);
    }
  });

  test("counts attention sinks in the denominator", () => {
    const sinks = new Float32Array([-Infinity, -3, 0, 1, 4, 30]);
    for (const softcap of [0, 20]) {
      const heads = { ...GQA3, sinks, softcap };
      const parts = [lastToken(make(heads, 700)), whole(make(heads, 50))];
      const result = attend(library, heads, parts);
      assertExact(library, heads, parts, result);
      assertSameBits(attend(library, heads, parts, { numThreads: 2 }), result, "2 threads");
    }
  });

  test("applies k and v scales of each head once", () => {
    const heads = { ...GQA3, kvDtype: "fp8_e5m2" as const, scales: new Float32Array([0.5, 0.5, 2, 2]) };
    const parts = [lastToken(make(heads, 100))];
    assertExact(library, heads, parts, attend(library, heads, parts));
  });

  test("stays exact with logits from -60000 to 60000", () => {
    const bounds = { absolute: 2e-2, relative: 1e-5, cosine: 1e-4 }; // f32's last place of such a logit is 0.004
    for (const sign of [1, -1]) {
      const heads = { ...GQA3, kvDtype: "float32" as const, numKvHeads: 1, numQHeads: 1, softmaxScale: 1 };
      const sequence = make(heads, 600, { deviation: 1 });
      const q = sequence.q.map((x) => x * 800);
      const k = new Float32Array(sequence.k.buffer.slice(0)).map((x, i) => x + sign * Math.sign(q[i % 64 + 599 * 64]!));
      const extreme = { ...sequence, q, k: new Uint8Array(k.buffer) };
      assertExact(library, heads, [lastToken(extreme)], attend(library, heads, [lastToken(extreme)]), bounds);
    }
  });

  test("finds one needle at every place and averages equal keys", () => {
    const heads: Heads = { kvDtype: "bfloat16", headDim: 64, numKvHeads: 1, numQHeads: 1, softmaxScale: 1 };
    const sequence = make(heads, 1030);
    const q = new Float32Array(sequence.q.length).fill(4);
    const v = new Uint16Array(sequence.v.buffer);
    for (const needle of [0, 15, 16, 63, 64, 511, 512, 1029]) {
      const k = new Uint16Array(1030 * 64);
      k.fill(0x3f80, needle * 64, (needle + 1) * 64); // 1.0: its logit is 256, all others' 0
      const { out } = attend(library, heads, [lastToken({ ...sequence, q, k: new Uint8Array(k.buffer) })]);
      const row = new Float32Array(Uint32Array.from(v.subarray(needle * 64, (needle + 1) * 64), (x) => x << 16).buffer);
      assertEquals(out, row, `needle at ${needle}`);
    }
    const equal = [lastToken({ ...sequence, k: new Uint8Array(sequence.k.length) })];
    const result = attend(library, heads, equal);
    assertExact(library, heads, equal, result);
    assertEquals(result.lse[0], Math.fround(Math.log(1030)));
  });

  test("works without lse", () => {
    const config = ATTENTION_CONFIG.encode(validConfig());
    const call = validCall(library);
    assertEquals(call({ config, lse: null }), STATUS.OK);
  });

  test("rejects what is out of range", () => {
    const call = validCall(library);
    assertEquals(call({}), STATUS.OK);
    const expectInvalid = (change: Parameters<typeof call>[0], text: string) => {
      assertEquals(call(change), STATUS.INVALID_ARGUMENT, text);
      assertStringIncludes(library.lastError(), text);
    };
    const withConfig = (change: Partial<ReturnType<typeof validConfig>>) => ({
      config: ATTENTION_CONFIG.encode({ ...validConfig(), ...change }),
    });
    expectInvalid(withConfig({ num_seqs: 0 }), "num_seqs must be at least 1, found 0");
    expectInvalid(withConfig({ num_tokens: 4 }), "query_len must add up to num_tokens 4, found 3");
    expectInvalid(withConfig({ num_q_heads: 5 }), "num_q_heads must be a multiple of num_kv_heads 2");
    expectInvalid(withConfig({ num_q_heads: 0 }), "found 0");
    expectInvalid(withConfig({ sliding_window: -1 }), "sliding_window must be at least 0, found -1");
    expectInvalid(withConfig({ max_pages_per_seq: 0 }), "max_pages_per_seq must be at least 1, found 0");
    expectInvalid(withConfig({ max_pages_per_seq: 1 }), "needs 2 pages, more than max_pages_per_seq: 1");
    expectInvalid(withConfig({ num_threads: 1025 }), "num_threads must be 0 to 1024, found 1025");
    expectInvalid(withConfig({ softmax_scale: 0 }), "softmax_scale must be finite and above 0, found 0");
    expectInvalid(withConfig({ softmax_scale: Infinity }), "softmax_scale must be finite and above 0, found inf");
    expectInvalid(withConfig({ reserved: 1 }), "reserved must be 0, found 1");
    assertEquals(call(withConfig({ q_dtype: DTYPE.BF16 })), STATUS.UNSUPPORTED);
    assertStringIncludes(library.lastError(), "q_dtype is 30");
    expectInvalid(withConfig({ logit_softcap: -1 }), "logit_softcap must be finite and not negative, found -1");
    expectInvalid({ queryLen: new Int32Array([0, 3]) }, "query_len of sequence 0 must be at least 1, found 0");
    expectInvalid(
      { seqLen: new Int32Array([20, 1]) },
      "seq_len of sequence 1 must be at least its query_len 2, found 1",
    );
    expectInvalid(
      { seqLen: new Int32Array([0, 20]) },
      "seq_len of sequence 0 must be at least its query_len 1, found 0",
    );
    expectInvalid({ seqLen: new Int32Array([2147483647, 20]) }, "needs 134217728 pages");
    expectInvalid({ pageTable: new Int32Array([0, 1, 2, 4]) }, "page 1 of sequence 1 must be 0 to 3, found 4");
    expectInvalid({ pageTable: new Int32Array([0, -1, 2, 3]) }, "page 1 of sequence 0 must be 0 to 3, found -1");
    const own = encodeShape({ kvDtype: "int8", pageSize: 16, numPages: 4, numKvHeads: 2, headDim: 16 });
    expectInvalid({ shape: own }, "scales must be NULL: kv_dtype 6 has scales of its own");
    expectInvalid({ scales: new Float32Array([1, 1, 1, NaN]) }, "v scale of kv head 1 must be finite and above 0");
    for (const name of ["shape", "config", "pages", "q", "out"] as const) {
      expectInvalid({ [name]: null }, `${name} must not be NULL`);
    }
    expectInvalid({ queryLen: null }, "query_len must not be NULL");
    expectInvalid({ seqLen: null }, "seq_len must not be NULL");
    expectInvalid({ pageTable: null }, "page_table must not be NULL");
  });
}

/** A config of two sequences with 1 and 2 of 20 tokens each. */
function validConfig(): Parameters<typeof ATTENTION_CONFIG.encode>[0] {
  return {
    num_seqs: 2,
    num_tokens: 3,
    num_q_heads: 4,
    max_pages_per_seq: 2,
    sliding_window: 0,
    num_threads: 1,
    softmax_scale: 0.25,
    logit_softcap: 0,
    q_dtype: DTYPE.F32,
    max_query_len: 0,
    reuse_plan: 0,
    reserved: 0,
  };
}

/** A call with that config, of which single arguments can be replaced; returns its status. */
function validCall(library: Library) {
  const shape = { kvDtype: "fp8_e4m3", pageSize: 16, numPages: 4, numKvHeads: 2, headDim: 16 } as const;
  const valid = {
    shape: encodeShape(shape),
    config: ATTENTION_CONFIG.encode(validConfig()),
    pages: new Uint8Array(4 * pageBytes(shape)).fill(KV_DTYPE.fp8_e4m3),
    q: new Float32Array(3 * 4 * 16),
    queryLen: new Int32Array([1, 2]),
    seqLen: new Int32Array([20, 20]),
    pageTable: new Int32Array([0, 1, 2, 3]),
    scales: new Float32Array([1, 1, 1, 1]),
    out: new Float32Array(3 * 4 * 16),
    lse: new Float32Array(3 * 4),
  };
  return (change: { [K in keyof typeof valid]?: (typeof valid)[K] | null }) => {
    const a = { ...valid, ...change };
    return library.symbols.octavo_paged_attention(
      a.shape,
      a.config,
      a.pages,
      a.q,
      a.queryLen,
      a.seqLen,
      a.pageTable,
      a.scales,
      null,
      a.out,
      a.lse,
    );
  };
}
