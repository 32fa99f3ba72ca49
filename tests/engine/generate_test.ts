import { assertEquals, assertRejects } from "@std/assert";
import { EngineError, RequestError } from "../../engine/errors.ts";
import { generate } from "../../engine/generate.ts";
import { startFakeEngine } from "./_fake_engine.ts";
import { expectedOutput, greedy } from "./_fake_model.ts";

const REQUEST = { id: "a", promptTokenIds: [1, 5, 9], sampling: greedy({ maxTokens: 30, ignoreEos: true }) };

Deno.test("generate() yields a request's deltas and returns its usage", async () => {
  await using engine = startFakeEngine().engine;
  const iterator = generate(engine, REQUEST);
  const tokenIds: number[] = [];
  let result = await iterator.next();
  for (; !result.done; result = await iterator.next()) {
    tokenIds.push(...result.value.flatMap((delta) => delta.tokenIds));
  }
  assertEquals(tokenIds, expectedOutput(REQUEST.promptTokenIds, REQUEST.sampling));
  assertEquals(result.value, { promptTokens: 3, completionTokens: 30, cachedTokens: 0 });
});

Deno.test("generate() aborts the request when the consumer leaves", async () => {
  const { engine, allowSteps } = startFakeEngine({ steps: 3 });
  for await (const _ of generate(engine, REQUEST)) break;
  allowSteps(1000);
  for (let i = 0; i < 2000 && engine.stats().requestsFinishedTotal.abort === 0; i++) {
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
  assertEquals(engine.stats().requestsFinishedTotal, { stop: 0, length: 0, abort: 1, deadline: 0, error: 0 });
  await engine.close();
});

Deno.test("generate() throws what the engine throws", async () => {
  const { engine } = startFakeEngine({ fault: "step" });
  await assertRejects(() => generate(engine, { ...REQUEST, promptTokenIds: [] }).next(), RequestError, "no tokens");
  await assertRejects(
    async () => {
      for await (const _ of generate(engine, REQUEST));
    },
    EngineError,
    "device lost",
  );
  await engine.close();
});
