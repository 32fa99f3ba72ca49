import { assertEquals, assertRejects, assertThrows } from "@std/assert";
import { OverloadedError } from "../../engine/errors.ts";
import { KvCompareClient } from "../../engine/kv_compare_client.ts";
import { KvComparer } from "../../engine/kv_comparer.ts";
import type { ComparedMessage, CompareMessage, EngineMessage } from "../../engine/messages.ts";
import type { KvCacheDtype, KvCompareRequest } from "../../engine/types.ts";
import { STATUS } from "../../ffi/enums.ts";
import { NativeError } from "../../ffi/library.ts";

const REQUEST: KvCompareRequest = { promptTokenIds: [1, 2], maxTokens: 3, reference: null, kvCacheDtype: "int8" };
const ANSWER = { type: "compared", key: 0, tokens: [], error: null } as const;

function client() {
  const posted: EngineMessage[] = [];
  let key = 0;
  const compare = new KvCompareClient({
    post: (message) => posted.push(message),
    nextKey: () => key++,
    limits: { maxModelLen: 64, vocabSize: 10 },
    ownDtype: "fp8_e4m3",
    kvVariant: (dtype) => {
      const name = (dtype ?? "float32") as KvCacheDtype;
      return { name, dtype: name, scales: null, kMean: null };
    },
  });
  return { compare, posted };
}

function answer(error: ComparedMessage["error"], key = 0): ComparedMessage {
  return { ...ANSWER, key, tokens: null, error };
}

Deno.test("KvCompareClient tells a lack of memory, which may pass, from other faults", async () => {
  const { compare, posted } = client();
  const first = compare.compare(REQUEST);
  compare.receive(answer({ message: "out of memory", isOutOfMemory: true }));
  await assertRejects(() => first, OverloadedError, "There is not enough memory to compare KV caches: out of memory");
  const second = compare.compare(REQUEST);
  compare.receive(answer({ message: "row 3 of the logits", isOutOfMemory: false }, 1));
  const error = await assertRejects(() => second, Error, "Cannot compare KV caches: row 3");
  assertEquals(error instanceof RangeError, false);
  assertEquals(posted.map(({ type }) => type), ["compare", "compare"]);
});

Deno.test("KvCompareClient drops the answer to a comparison that was aborted", async () => {
  const { compare, posted } = client();
  const gone = new AbortController();
  const first = compare.compare(REQUEST, gone.signal);
  gone.abort(new Error("gone"));
  await assertRejects(() => first, Error, "gone");
  const second = compare.compare(REQUEST);
  compare.receive(ANSWER);
  compare.receive({ ...ANSWER, key: 1 });
  assertEquals((await second).tokens, []);
  assertEquals(posted.map((message) => [message.type, "key" in message ? message.key : null]), [
    ["compare", 0],
    ["abort", 0],
    ["compare", 1],
  ]);
  assertThrows(() => gone.signal.throwIfAborted(), Error, "gone");
  await assertRejects(() => compare.compare(REQUEST, gone.signal), Error, "gone");
});

Deno.test("KvComparer answers what cannot be opened, and is free for the next", () => {
  const errors = [
    new NativeError("no pages", STATUS.OUT_OF_MEMORY),
    new NativeError("head_dim 20", STATUS.UNSUPPORTED),
  ];
  const comparer = new KvComparer({
    eosTokenIds: [],
    open: () => {
      throw errors.shift();
    },
  });
  const variant = { name: "int8", dtype: "int8", scales: null, kMean: null } as const;
  const message = (key: number): CompareMessage => {
    return { type: "compare", key, variants: [variant, variant], prompt: Int32Array.of(1), maxTokens: 1 };
  };
  assertEquals(comparer.turn(), null);
  comparer.start(message(4));
  assertEquals(comparer.isIdle, false);
  assertEquals(comparer.turn(), answer({ message: "no pages", isOutOfMemory: true }, 4));
  assertEquals(comparer.isIdle, true);
  comparer.start(message(5));
  assertEquals(comparer.turn()?.error, { message: "head_dim 20", isOutOfMemory: false });
  comparer.start(message(6));
  assertEquals([comparer.abort(5), comparer.abort(6), comparer.isIdle], [false, true, true]);
});
