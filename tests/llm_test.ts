import { assertEquals, assertGreater, assertNotEquals, assertRejects } from "@std/assert";
import { EngineError, RequestError } from "../engine/errors.ts";
import { LLM, type LLMOptions } from "../llm.ts";

const DATA = new URL("data/tiny/", import.meta.url);
const GOLDEN = JSON.parse(await Deno.readTextFile(new URL("golden.json", DATA)));
const PROMPT: number[] = GOLDEN.prompt;
const EXPECTED: number[] = GOLDEN.folders.base.exact_kv.greedy;
const GREEDY = { temperature: 0, maxTokens: EXPECTED.length, ignoreEos: true };

function load(options: LLMOptions = {}): Promise<LLM> {
  return LLM.load({
    model: decodeURIComponent(new URL("base", DATA).pathname),
    kvCacheDtype: "float32",
    kvCacheMemory: "8MiB",
    threads: 1,
    ...options,
  });
}

Deno.test("LLM.generate() completes one prompt or several, as text or token ids", async () => {
  await using llm = await load();
  const [out] = await llm.generate(PROMPT, GREEDY);
  assertEquals([out.prompt, out.promptTokenIds], [null, PROMPT]);
  assertEquals(out.outputs.length, 1);
  const { text, tokenIds, finishReason, stopReason, logprobs } = out.outputs[0];
  assertEquals(tokenIds, EXPECTED);
  assertEquals(text, llm.tokenizer.decode(EXPECTED, { skipSpecialTokens: true }));
  assertEquals([finishReason, stopReason, logprobs], ["length", null, null]);

  const both = await llm.generate(["Hello", PROMPT], [{ ...GREEDY, maxTokens: 3, n: 2, logprobs: 1 }, GREEDY]);
  assertEquals(both.map(({ prompt }) => prompt), ["Hello", null]);
  assertEquals(both[0]!.promptTokenIds, llm.tokenizer.encode("Hello"));
  assertEquals(both[0]!.outputs.map(({ index, tokenIds }) => [index, tokenIds.length]), [[0, 3], [1, 3]]);
  assertEquals(both[0]!.outputs[1]!.logprobs!.map(({ tokenId }) => tokenId), both[0]!.outputs[1]!.tokenIds);
  assertEquals(both[1]!.outputs[0].tokenIds, EXPECTED);
  assertEquals(await llm.generate([]), []);
});

Deno.test("LLM.generate() stores each prompt as it asks", async () => {
  await using llm = await load({ kvCacheDtypes: ["float32", "int4"] });
  const [exact, coarse, also] = await llm.generate([PROMPT, PROMPT, PROMPT], [
    { ...GREEDY, logprobs: 0 },
    { ...GREEDY, logprobs: 0, kvCacheDtype: "int4" },
    { ...GREEDY, logprobs: 0, kvCacheDtype: "float32" },
  ]);
  assertEquals(exact!.outputs[0].tokenIds, EXPECTED);
  assertEquals(also, exact);
  assertNotEquals(coarse!.outputs[0].logprobs, exact!.outputs[0].logprobs);
  const wrong = { ...GREEDY, kvCacheDtype: "int8" } as const;
  await assertRejects(() => llm.generate(PROMPT, wrong), RequestError, 'float32, int4; received "int8"');
});

Deno.test("LLM.generate() refuses what cannot be served and runs nothing", async () => {
  await using llm = await load();
  await assertRejects(() => llm.generate([PROMPT, [99_999]], GREEDY), RequestError, "received 99999");
  await assertRejects(() => llm.generate(PROMPT, { topP: 3 }), RequestError, "top_p must be");
  await assertRejects(() => llm.generate(["a", "b"], [GREEDY]), RangeError, "each of 2 inputs, received 1");
  assertEquals((await llm.generate(PROMPT, GREEDY))[0].outputs[0].tokenIds, EXPECTED);
});

Deno.test("LLM.chat() answers one conversation or several through the chat template", async () => {
  await using llm = await load();
  const conversation = [{ role: "user", content: "Hello" }];
  const params = { ...GREEDY, maxTokens: 4 };
  const [out] = await llm.chat(conversation, params);
  assertGreater(out.prompt!.indexOf("Hello"), -1);
  assertEquals(out.promptTokenIds, llm.tokenizer.encode(out.prompt!, { addSpecialTokens: false }));
  const outs = await llm.chat([conversation, [{ role: "user", content: "Bye" }]], params);
  assertEquals(outs[0], out);
  assertEquals(outs.length, 2);
  // Without maxTokens an answer may fill the context.
  const [long] = await llm.chat(conversation, { temperature: 0, ignoreEos: true });
  assertEquals(long.promptTokenIds.length + long.outputs[0].tokenIds.length, llm.info.maxModelLen);
});

Deno.test("LLM.stream() yields the text of generate() in pieces, and aborts when it is left", async () => {
  await using llm = await load();
  const tokenIds: number[] = [];
  let text = "";
  for await (const delta of llm.stream(PROMPT, GREEDY)) {
    tokenIds.push(...delta.tokenIds);
    text += delta.text;
  }
  assertEquals(tokenIds, EXPECTED);
  assertEquals(text, (await llm.generate(PROMPT, GREEDY))[0].outputs[0].text);
  for await (const delta of llm.stream([{ role: "user", content: "Hello" }])) {
    assertEquals(delta.index, 0);
    break;
  }
  assertEquals((await llm.generate(PROMPT, GREEDY))[0].outputs[0].tokenIds, EXPECTED);
});

Deno.test("LLM.load() calculates the FP8 cache's scales from the first prompt when asked", async () => {
  await using plain = await load({ kvCacheDtype: "fp8" });
  await using scaled = await load({ kvCacheDtype: "fp8", calculateKvScales: true });
  const logprobs = async (llm: LLM) => {
    const [out] = await llm.generate(PROMPT, { ...GREEDY, logprobs: 0 });
    return out.outputs[0].logprobs!.map(({ logprob }) => logprob);
  };
  assertNotEquals(await logprobs(scaled), await logprobs(plain));
  // Fixed by the first prompt: the second time gives the same bits.
  assertEquals(await logprobs(scaled), await logprobs(scaled));
});

Deno.test("LLM.load() names an option that does not fit or is out of range", async () => {
  await assertRejects(
    () => load({ calculateKvScales: true }),
    RangeError,
    "calculate_kv_scales needs kv_cache_dtype fp8_e4m3 or fp8_e5m2",
  );
  await assertRejects(() => load({ kvCacheMemory: "much" }), RangeError, "expected bytes such as 2GiB");
  await assertRejects(() => load({ maxModelLen: 100_000 }), RangeError, "max_model_len must be an integer");
});

Deno.test("LLM.close() ends what runs and refuses more", async () => {
  const llm = await load();
  const running = llm.chat([{ role: "user", content: "Hello" }], { ignoreEos: true });
  const rejected = assertRejects(() => running, EngineError, "The engine was closed");
  await llm.close();
  await rejected;
  await assertRejects(() => llm.generate(PROMPT), EngineError, "The engine is closed");
});

Deno.test("LLM.load() makes weights up, the same each time, and has sizes for the CPU where none are given", async () => {
  const outputs = [];
  for (let run = 0; run < 2; run++) {
    await using llm = await load({ loadFormat: "dummy" });
    const [out] = await llm.generate(PROMPT, GREEDY);
    outputs.push(out.outputs[0].tokenIds);
    assertEquals([llm.info.maxNumSeqs, llm.info.maxNumBatchedTokens], [16, 256]);
  }
  assertEquals(outputs[0], outputs[1]);
  assertNotEquals(outputs[0], EXPECTED);
  await assertRejects(() => load({ quantization: "fp8" }), EngineError, "needs a GPU");
  await assertRejects(() => load({ gpuMemoryUtilization: 2 }), RangeError, "above 0 and at most 1, received 2");
});
