import { assertEquals, assertMatch, assertNotEquals } from "@std/assert";
import { BOS, events, fakeApp, post, reply } from "./_fake_engine.ts";

const PATH = "/v1/completions";

Deno.test("completion has OpenAI's shape when not streamed", async () => {
  const { app, engine } = fakeApp();
  const body = await (await post(app, PATH, { model: "org/demo", prompt: "Hi" })).json();
  assertMatch(body.id, /^cmpl-[0-9a-f]{32}$/);
  const { id: _, created: __, ...rest } = body;
  assertEquals(rest, {
    object: "text_completion",
    model: "org/demo",
    system_fingerprint: "octavo-0.1.0",
    choices: [{ index: 0, text: "Hello", logprobs: null, finish_reason: "stop", stop_reason: null }],
    usage: { prompt_tokens: 3, completion_tokens: 6, total_tokens: 9, prompt_tokens_details: { cached_tokens: 0 } },
  });
  assertEquals(engine.requests[0]!.request.promptTokenIds, [BOS, 72, 105]);
  assertEquals(engine.requests[0]!.request.sampling.maxTokens, 16);
});

const PROMPTS: [string, unknown, number[][]][] = [
  ["a text", "Hi", [[BOS, 72, 105]]],
  ["texts", ["H", "i"], [[BOS, 72], [BOS, 105]]],
  ["token ids", [72, 105], [[72, 105]]],
  ["lists of token ids", [[72], [105, 1]], [[72], [105, 1]]],
];
for (const [name, prompt, expected] of PROMPTS) {
  Deno.test(`completion takes ${name} as prompt`, async () => {
    const { app, engine } = fakeApp();
    await (await post(app, PATH, { prompt })).text();
    assertEquals(engine.requests.map(({ request }) => request.promptTokenIds), expected);
  });
}

Deno.test("completion indexes the choices of prompt p from p x n and sums the usage", async () => {
  const { app, engine } = fakeApp();
  engine.script = (fake) => reply((index) => `${fake.request.promptTokenIds.length}${index}`)(fake);
  const body = { prompt: [[1], [1, 2], [1, 2, 3]], n: 2, echo: false };
  const whole = await (await post(app, PATH, body)).json();
  const texts = ["10", "11", "20", "21", "30", "31"];
  assertEquals(whole.choices.map((choice: { index: number; text: string }) => [choice.index, choice.text]), [
    ...texts.entries(),
  ]);
  assertEquals(whole.usage.prompt_tokens, 6);
  assertEquals(whole.usage.completion_tokens, 18);
  const streamed = texts.map(() => "");
  for (const { choices } of events(await (await post(app, PATH, { ...body, stream: true })).text()).slice(0, -1)) {
    streamed[choices[0].index] += choices[0].text;
  }
  assertEquals(streamed, texts);
});

Deno.test("completion sums what became of guesses in its usage, streamed and not", async () => {
  const { app, engine } = fakeApp();
  engine.script = (fake) => {
    fake.emit({ text: "H", tokenIds: [72], finishReason: "stop" });
    fake.end({ guesses: { kept: 3, rejected: fake.request.promptTokenIds.length } });
  };
  const body = { prompt: [[1], [1, 2]] };
  const whole = await (await post(app, PATH, body)).json();
  const expected = { accepted_prediction_tokens: 6, rejected_prediction_tokens: 3 };
  assertEquals(whole.usage.completion_tokens_details, expected);
  const streamed = await post(app, PATH, { ...body, stream: true, stream_options: { include_usage: true } });
  assertEquals(events(await streamed.text()).at(-2).usage, whole.usage);
});

Deno.test("completion returns the n most likely of best_of choices, by mean log-probability", async () => {
  const { app, engine } = fakeApp();
  // Choice 0: -1 a token, choice 1: -0.5, choice 2: the highest sum but -0.9 a token.
  const logprobs = [[-1, -1, -1], [-0.5, -0.5, -0.5], [-0.9]];
  engine.script = (fake) => {
    for (const [index, values] of logprobs.entries()) {
      const entries = values.map((logprob) => ({ tokenId: 65 + index, logprob, top: [] }));
      const tokenIds = entries.map(({ tokenId }) => tokenId);
      const text = String.fromCharCode(...tokenIds);
      fake.emit({ index, text, tokenIds, logprobs: entries, finishReason: "stop" });
    }
    fake.end();
  };
  const body = await (await post(app, PATH, { prompt: ["x", "y"], n: 2, best_of: 3 })).json();
  assertEquals(engine.requests.map(({ request: { sampling } }) => [sampling.n, sampling.logprobs]), [[3, 0], [3, 0]]);
  const choice = (index: number, text: string) => (
    { index, text, logprobs: null, finish_reason: "stop", stop_reason: null }
  );
  assertEquals(body.choices, [choice(0, "BBB"), choice(1, "C"), choice(2, "BBB"), choice(3, "C")]);
  assertEquals(body.usage.completion_tokens, 14);
});

Deno.test("completion gives prompts their own random seeds, and the given one to each", async () => {
  const { app, engine } = fakeApp();
  await (await post(app, PATH, { prompt: ["a", "a"] })).text();
  await (await post(app, PATH, { prompt: ["a", "a"], seed: -1 })).text();
  const seeds = engine.requests.map(({ request }) => request.sampling.seed);
  assertNotEquals(seeds[0], seeds[1]);
  assertEquals(seeds.slice(2), [2n ** 64n - 1n, 2n ** 64n - 1n]);
});

Deno.test("completion stream equals the whole response, whatever the options", async () => {
  const { app, engine } = fakeApp();
  engine.script = reply("é🙂!");
  const body = { prompt: ["Ü", "ab"], logprobs: 2, return_token_ids: true };
  const whole = await (await post(app, PATH, body)).json();
  const all = events(await (await post(app, PATH, { ...body, stream: true })).text());
  assertEquals(all.at(-1), "[DONE]");
  for (const choice of whole.choices) {
    const parts = all.slice(0, -1).map(({ choices }) => choices[0]).filter(({ index }) => index === choice.index);
    assertEquals(parts.map(({ text }) => text).join(""), choice.text);
    assertEquals(parts[0].prompt_token_ids, choice.prompt_token_ids);
    assertEquals(parts.flatMap(({ token_ids }) => token_ids ?? []), choice.token_ids);
    for (const key of ["tokens", "token_logprobs", "top_logprobs", "text_offset"]) {
      assertEquals(parts.flatMap(({ logprobs }) => logprobs?.[key] ?? []), choice.logprobs[key]);
    }
    assertEquals(parts.at(-1).finish_reason, "stop");
  }
});

Deno.test("completion log-probabilities have OpenAI's shape, offsets in characters and no -Infinity", async () => {
  const { app, engine } = fakeApp();
  engine.script = reply("aé!");
  const body = await (await post(app, PATH, { prompt: "x", logprobs: 3 })).json();
  const { tokens, token_logprobs, top_logprobs, text_offset } = body.choices[0].logprobs;
  assertEquals(tokens, ["a", "\ufffd", "\ufffd", "!", "<|end|>"]);
  assertEquals(token_logprobs, [-0.5, -0.5, -0.5, -0.5, -0.5]);
  assertEquals(text_offset, [0, 1, 1, 2, 3]);
  assertEquals(top_logprobs[0], { a: -0.5, B: -2, C: -9999 });
});

Deno.test("completion puts the prompt first when asked to echo", async () => {
  const { app } = fakeApp();
  const whole = await (await post(app, PATH, { prompt: ["Hi ", "Ho "], echo: true })).json();
  assertEquals(whole.choices.map(({ text }: { text: string }) => text), ["Hi Hello", "Ho Hello"]);
  const ids = await (await post(app, PATH, { prompt: [72, 105], echo: true })).json();
  assertEquals(ids.choices[0].text, "HiHello");
  const all = events(await (await post(app, PATH, { prompt: "Hi ", echo: true, stream: true })).text());
  assertEquals(all.slice(0, -1).map(({ choices }) => choices[0].text).join(""), "Hi Hello");
});

Deno.test("completion echoes the prompt's log-probabilities before the output's, streamed and not", async () => {
  const { app, engine } = fakeApp();
  engine.script = reply("o!");
  const body = { prompt: "Hé<|start|>", echo: true, logprobs: 2, n: 2, max_tokens: 2 };
  const { choices } = await (await post(app, PATH, body)).json();
  const { sampling } = engine.requests[0]!.request;
  assertEquals([sampling.logprobs, sampling.promptLogprobs], [2, 2]);
  assertEquals(choices.length, 2);
  const { tokens, token_logprobs, top_logprobs, text_offset } = choices[1].logprobs;
  assertEquals(choices[1].text, "Hé<|start|>o!");
  assertEquals(tokens, ["<s>", "H", "\ufffd", "\ufffd", "<|start|>", "o", "!"]);
  assertEquals(token_logprobs, [null, -1, -2, -3, -4, -0.5, -0.5]);
  assertEquals(top_logprobs.slice(0, 2), [null, { H: -0.5, B: -2 }]);
  // The token that the tokenizer put first is not part of the text, the one written in it is.
  assertEquals(text_offset, [0, 0, 1, 1, 2, 11, 12]);
  const all = events(await (await post(app, PATH, { ...body, stream: true })).text()).slice(0, -1);
  for (const choice of choices) {
    const parts = all.map(({ choices }) => choices[0]).filter(({ index }) => index === choice.index);
    assertEquals(parts.map(({ text }) => text).join(""), choice.text);
    for (const key of ["tokens", "token_logprobs", "top_logprobs", "text_offset"]) {
      assertEquals(parts.flatMap(({ logprobs }) => logprobs?.[key] ?? []), choice.logprobs[key]);
    }
  }
});

Deno.test("completion of no tokens tells the prompt's log-probabilities alone, streamed and not", async () => {
  const { app } = fakeApp();
  const body = { prompt: ["ab", "c"], echo: true, logprobs: 0, max_tokens: 0, return_token_ids: true };
  const { choices, usage } = await (await post(app, PATH, body)).json();
  assertEquals(choices.map(({ text }: { text: string }) => text), ["ab", "c"]);
  assertEquals(choices[0].logprobs.token_logprobs, [null, -1, -2]);
  assertEquals([choices[0].finish_reason, choices[0].token_ids], ["length", []]);
  assertEquals([usage.prompt_tokens, usage.completion_tokens, usage.total_tokens], [5, 0, 5]);
  const stream = { ...body, stream: true, stream_options: { include_usage: true } };
  const all = events(await (await post(app, PATH, stream)).text()).slice(0, -1);
  assertEquals(all.at(-1).usage.completion_tokens, 0);
  const first = all.filter(({ choices }) => choices[0]?.index === 0).map(({ choices }) => choices[0]);
  assertEquals(first.map(({ text }) => text).join(""), "ab");
  assertEquals(first[0].logprobs, choices[0].logprobs);
  assertEquals(first.at(-1).finish_reason, "length");
});

Deno.test("completion gives prompt_logprobs as vLLM does, one map a token", async () => {
  const { app } = fakeApp();
  const body = { prompt: "Hi", prompt_logprobs: 2, n: 2 };
  const { choices } = await (await post(app, PATH, body)).json();
  const expected = [
    null,
    {
      "72": { logprob: -1, rank: 2, decoded_token: "H" },
      "66": { logprob: -2, rank: 2, decoded_token: "B" },
    },
    {
      "105": { logprob: -2, rank: 3, decoded_token: "i" },
      "66": { logprob: -2, rank: 2, decoded_token: "B" },
    },
  ];
  for (const choice of choices) {
    assertEquals(choice.prompt_logprobs, expected);
    assertEquals(choice.logprobs, null);
  }
  // Asked for beside an echo's, each has its own number of likeliest tokens.
  const both = await (await post(app, PATH, { ...body, echo: true, logprobs: 1 })).json();
  assertEquals(both.choices[0].prompt_logprobs, expected);
  assertEquals(both.choices[0].logprobs.top_logprobs[1], { H: -0.5 });
});

Deno.test("completion cuts the default max_tokens to what the context has left", async () => {
  const { app, engine } = fakeApp();
  const prompt = Array(250).fill(65);
  await (await post(app, PATH, { prompt })).text();
  assertEquals(engine.requests[0]!.request.sampling.maxTokens, 6);
});

Deno.test("completion takes half a surrogate pair as U+FFFD", async () => {
  const { app, engine } = fakeApp();
  const response = await post(app, PATH, '{"prompt": "a\\ud83d"}');
  assertEquals(response.status, 200, await response.text());
  assertEquals(engine.requests[0]!.request.promptTokenIds, [BOS, 97, 0xef, 0xbf, 0xbd]);
});

Deno.test("completion leaves special tokens away when told to", async () => {
  const { app, engine } = fakeApp();
  await (await post(app, PATH, { prompt: "A", add_special_tokens: false })).text();
  assertEquals(engine.requests[0]!.request.promptTokenIds, [65]);
});
