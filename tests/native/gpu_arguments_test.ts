import { assertEquals, assertMatch } from "@std/assert";
import { STATUS } from "../../ffi/enums.ts";
import { ATTENTION_CONFIG, KV_SHAPE } from "../../ffi/structs.ts";
import { openLibrary } from "./_library.ts";

// The CPU build offers neither streams nor 16-bit queries: it says so instead of ignoring them.
const library = openLibrary(["octavo_stream_set", "octavo_paged_attention"]);

Deno.test("octavo_stream_set() refuses a stream in the CPU build", () => {
  assertEquals(library.symbols.octavo_stream_set(null), STATUS.OK);
  assertEquals(library.symbols.octavo_stream_set(Deno.UnsafePointer.create(64n)), STATUS.UNSUPPORTED);
  assertMatch(library.lastError(), /no streams/);
});

Deno.test("octavo_paged_attention() refuses 16-bit queries in the CPU build", () => {
  const shape = KV_SHAPE.encode({
    kv_dtype: 3,
    page_size: 16,
    num_pages: 1,
    num_kv_heads: 1,
    head_dim: 16,
    page_stride: 0,
  });
  const config = ATTENTION_CONFIG.encode({
    num_seqs: 1,
    num_tokens: 1,
    num_q_heads: 1,
    max_pages_per_seq: 1,
    sliding_window: 0,
    num_threads: 1,
    softmax_scale: 1,
    logit_softcap: 0,
    q_dtype: 30,
    max_query_len: 0,
    reuse_plan: 0,
    reserved: 0,
  });
  const one = new Int32Array([1]);
  const page = new Uint8Array(2 * 16 * 16);
  const q = new Float32Array(16);
  const status = library.symbols
    .octavo_paged_attention(
      shape,
      config,
      page,
      q,
      one,
      one,
      new Int32Array(1),
      null,
      null,
      new Float32Array(16),
      null,
    );
  assertEquals(status, STATUS.UNSUPPORTED);
  assertMatch(library.lastError(), /q_dtype is 30/);
});
