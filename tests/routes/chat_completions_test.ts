import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { events, fakeApp, post, reply, TURN_END, TURN_START, USER_MESSAGE } from "./_fake_engine.ts";

const PATH = "/v1/chat/completions";
const messages = [USER_MESSAGE];

Deno.test("chat completion has OpenAI's shape when not streamed", async () => {
  const { app, engine } = fakeApp();
  const response = await post(app, PATH, { model: "demo", messages });
  const body = await response.json();
  assertEquals(response.status, 200);
  assertMatch(body.id, /^chatcmpl-[0-9a-f]{32}$/);
  assert(Number.isInteger(body.created));
  const { id: _, created: __, ...rest } = body;
  assertEquals(rest, {
    object: "chat.completion",
    model: "demo",
    system_fingerprint: "octavo-0.1.0",
    choices: [{
      index: 0,
      message: { role: "assistant", content: "Hello", refusal: null },
      logprobs: null,
      finish_reason: "stop",
      stop_reason: null,
    }],
    usage: { prompt_tokens: 21, completion_tokens: 6, total_tokens: 27, prompt_tokens_details: { cached_tokens: 0 } },
  });
  const text = "user: Hi";
  assertEquals(engine.requests[0]!.request.promptTokenIds, [
    TURN_START,
    ...new TextEncoder().encode(text),
    TURN_END,
    TURN_START,
    ...new TextEncoder().encode("assistant:"),
  ]);
});

Deno.test("chat stream has the role first, the finish reason in its own last chunk, then [DONE]", async () => {
  const { app, engine } = fakeApp();
  engine.script = reply("Hé");
  const response = await post(app, PATH, { messages, stream: true });
  assertEquals(response.headers.get("content-type"), "text/event-stream; charset=utf-8");
  assertEquals(response.headers.get("x-accel-buffering"), "no");
  const all = events(await response.text());
  assertEquals(all.at(-1), "[DONE]");
  const chunks = all.slice(0, -1);
  for (const chunk of chunks) {
    assertEquals(Object.keys(chunk), ["id", "object", "created", "model", "system_fingerprint", "choices"]);
    assertEquals([chunk.object, chunk.id, chunk.model], ["chat.completion.chunk", chunks[0].id, "demo"]);
  }
  const common = { index: 0, logprobs: null, finish_reason: null };
  assertEquals(chunks.map(({ choices }) => choices[0]), [
    { ...common, delta: { role: "assistant", content: "" } },
    { ...common, delta: { content: "H" } },
    { ...common, delta: { content: "é" } },
    { ...common, delta: {}, finish_reason: "stop", stop_reason: null },
  ]);
});

Deno.test("chat stream ends with the usage only when asked for", async () => {
  const { app } = fakeApp();
  const stream_options = { include_usage: true };
  const all = events(await (await post(app, PATH, { messages, stream: true, stream_options })).text());
  const usage = all.at(-2);
  assertEquals(usage.choices, []);
  assertEquals(usage.usage, {
    prompt_tokens: 21,
    completion_tokens: 6,
    total_tokens: 27,
    prompt_tokens_details: { cached_tokens: 0 },
  });
  for (const chunk of all.slice(0, -2)) assertEquals(chunk.usage, null);
});

Deno.test("chat stream carries the usage so far when asked for", async () => {
  const { app } = fakeApp();
  const stream_options = { include_usage: true, continuous_usage_stats: true };
  const all = events(await (await post(app, PATH, { messages, stream: true, stream_options })).text());
  assertEquals(all.slice(0, 3).map(({ usage }) => usage), [
    { prompt_tokens: 21, completion_tokens: 0, total_tokens: 21 },
    { prompt_tokens: 21, completion_tokens: 1, total_tokens: 22 },
    { prompt_tokens: 21, completion_tokens: 2, total_tokens: 23 },
  ]);
});

Deno.test("chat stream equals the whole response, whatever the options", async () => {
  const { app, engine } = fakeApp();
  engine.script = reply((index) => `choice ${index}: 🙂 "\\\u2028é`);
  const body = { messages, n: 3, seed: 5, logprobs: true, top_logprobs: 2, return_token_ids: true };
  const whole = await (await post(app, PATH, body)).json();
  const all = events(await (await post(app, PATH, { ...body, stream: true })).text()).slice(0, -1);
  assertEquals(all[0].prompt_token_ids, whole.prompt_token_ids);
  for (const choice of whole.choices) {
    const parts = all.map(({ choices }) => choices[0]).filter(({ index }) => index === choice.index);
    assertEquals(parts[0].delta, { role: "assistant", content: "" });
    assertEquals(parts.map(({ delta }) => delta.content ?? "").join(""), choice.message.content);
    assertEquals(parts.flatMap(({ token_ids }) => token_ids ?? []), choice.token_ids);
    assertEquals(parts.flatMap(({ logprobs }) => logprobs?.content ?? []), choice.logprobs.content);
    assertEquals(parts.at(-1).finish_reason, choice.finish_reason);
    assertEquals(choice.message.content, `choice ${choice.index}: 🙂 "\\\u2028é`);
  }
});

Deno.test("chat stream never cuts a character when it is split over tokens", async () => {
  const { app, engine } = fakeApp();
  engine.script = reply("a👩‍👩‍👧🇩🇪");
  const text = await (await post(app, PATH, { messages, stream: true })).text();
  assert(!text.includes("\ufffd"));
  const parts = events(text).slice(0, -1).map(({ choices }) => choices[0].delta.content ?? "");
  assertEquals(parts.join(""), "a👩‍👩‍👧🇩🇪");
});

// After vllm#10234 and sglang#4097, where -Infinity became a 500.
Deno.test("chat log-probabilities have OpenAI's shape and no -Infinity", async () => {
  const { app } = fakeApp();
  const body = await (await post(app, PATH, { messages, max_tokens: 1, logprobs: true, top_logprobs: 3 })).json();
  assertEquals(body.choices[0].logprobs, {
    content: [{
      token: "H",
      logprob: -0.5,
      bytes: [72],
      top_logprobs: [
        { token: "H", logprob: -0.5, bytes: [72] },
        { token: "B", logprob: -2, bytes: [66] },
        { token: "C", logprob: -9999, bytes: [67] },
      ],
    }],
    refusal: null,
  });
  assertEquals(body.choices[0].finish_reason, "length");
});

Deno.test("chat takes the stop reason from the engine", async () => {
  const { app, engine } = fakeApp();
  engine.script = (fake) => {
    fake.emit({ text: "Hel", tokenIds: [72], finishReason: "stop", stopReason: "lo" });
    fake.end({ cachedTokens: 16 });
  };
  const body = await (await post(app, PATH, { messages, stop: "lo" })).json();
  assertEquals([body.choices[0].finish_reason, body.choices[0].stop_reason], ["stop", "lo"]);
  assertEquals(body.usage.prompt_tokens_details, { cached_tokens: 16 });
});

Deno.test("chat uses the model's sampling defaults where the request is silent", async () => {
  const { app, engine } = fakeApp();
  await (await post(app, PATH, { messages, temperature: null })).text();
  await (await post(app, PATH, { messages, temperature: 0, top_k: -1, seed: 7, max_tokens: 9 })).text();
  const [silent, given] = engine.requests.map(({ request }) => request.sampling);
  assertEquals([silent!.temperature, silent!.topK, silent!.maxTokens], [0.6, 20, 256 - 21]);
  assertEquals([given!.temperature, given!.topK, given!.seed, given!.maxTokens], [0, 0, 7n, 9]);
});

Deno.test("chat passes every sampling field on", async () => {
  const { app, engine } = fakeApp();
  const response = await post(app, PATH, {
    messages,
    max_completion_tokens: 30,
    max_tokens: 40,
    n: 2,
    top_p: 0.5,
    min_p: 0.1,
    stop: ["a", "b"],
    stop_token_ids: [3],
    include_stop_str_in_output: true,
    ignore_eos: true,
    min_tokens: 4,
    presence_penalty: 1,
    frequency_penalty: -1,
    repetition_penalty: 1.5,
    logit_bias: { "5": -100 },
    allowed_token_ids: [7, 5, 7],
    bad_words: ["ab", " c"],
    skip_special_tokens: false,
    logprobs: true,
  });
  await response.text();
  const { seed: _, ...sampling } = engine.requests[0]!.request.sampling;
  assertEquals(sampling, {
    n: 2,
    maxTokens: 30,
    minTokens: 4,
    temperature: 0.6,
    topK: 20,
    topP: 0.5,
    minP: 0.1,
    repetitionPenalty: 1.5,
    presencePenalty: 1,
    frequencyPenalty: -1,
    logitBias: new Map([[5, -100]]),
    allowedTokenIds: [7, 5],
    choices: null,
    badWords: [[97, 98], [99]],
    stop: ["a", "b"],
    stopTokenIds: [3],
    includeStopStrInOutput: true,
    ignoreEos: true,
    logprobs: 0,
    promptLogprobs: null,
    speculate: true,
    prediction: null,
    skipSpecialTokens: false,
  });
});

Deno.test("chat keeps the output to choices in both of vLLM's spellings", async () => {
  const { app, engine } = fakeApp();
  for (const field of [{ guided_choice: ["yes", "<s>"] }, { structured_outputs: { choice: ["yes", "<s>"] } }]) {
    await (await post(app, PATH, { messages, ...field })).text();
    assertEquals(engine.requests.at(-1)!.request.sampling.choices, [[121, 101, 115], [256]]);
  }
  for (const field of [{ guided_choice: [] }, { guided_choice: [""] }, { structured_outputs: { json: {} } }]) {
    const response = await post(app, PATH, { messages, ...field });
    const { error } = await response.json();
    assertEquals([response.status, error.param?.split(/[.[]/)[0]], [400, Object.keys(field)[0]]);
  }
});

Deno.test("chat refuses choices of too many characters, and choices given twice", async () => {
  const { app } = fakeApp();
  const most = Array.from({ length: 16 }, (_, i) => String.fromCharCode(97 + i).repeat(1024));
  assertEquals((await post(app, PATH, { messages, guided_choice: most })).status, 200);
  const refused: [Record<string, unknown>, string, RegExp][] = [
    [{ guided_choice: [...most, "x"] }, "guided_choice", /at most 16384 characters in all, received a list of 17/],
    [{ structured_outputs: { choice: [...most, "x"] } }, "structured_outputs.choice", /16384 characters in all/],
    [{ guided_choice: ["a"], structured_outputs: { choice: ["b"] } }, "guided_choice", /received both/],
  ];
  for (const [fields, param, message] of refused) {
    const response = await post(app, PATH, { messages, ...fields });
    const { error } = await response.json();
    assertEquals([response.status, error.param], [400, param]);
    assertMatch(error.message, message);
  }
});

Deno.test("chat hands on the tokens of a prediction, whose special tokens are text", async () => {
  const { app, engine } = fakeApp();
  const parts = [{ type: "text", text: "a<" }, { type: "text", text: "b" }];
  for (const content of ["a<b", parts]) {
    await (await post(app, PATH, { messages, prediction: { type: "content", content } })).text();
    assertEquals(engine.requests.at(-1)!.request.sampling.prediction, [97, 60, 98]);
  }
  const refused: [unknown, string, RegExp][] = [
    [{ type: "text", content: "a" }, "prediction.type", /expected "content", received "text"/],
    [{ type: "content" }, "prediction.content", /expected a string or a list of text parts/],
    [{ type: "content", content: "x".repeat(256 * 9 + 1) }, "prediction", /needs a prediction of at least 257/],
  ];
  for (const [prediction, param, message] of refused) {
    const response = await post(app, PATH, { messages, prediction });
    const { error } = await response.json();
    assertEquals([response.status, error.param], [400, param]);
    assertMatch(error.message, message);
  }
});

Deno.test("chat gives prompt_logprobs of the rendered prompt beside the choices", async () => {
  const { app, engine } = fakeApp();
  const body = await (await post(app, PATH, { messages: [USER_MESSAGE], prompt_logprobs: 0 })).json();
  const { promptTokenIds, sampling } = engine.requests[0]!.request;
  assertEquals(sampling.promptLogprobs, 0);
  assertEquals(body.prompt_logprobs.length, promptTokenIds.length);
  assertEquals(body.prompt_logprobs[0], null);
  assertEquals(body.prompt_logprobs[1], { [promptTokenIds[1]!]: { logprob: -1, rank: 2, decoded_token: "u" } });
});

Deno.test("chat takes the likeliest token alone when top_p is 0", async () => {
  const { app, engine } = fakeApp();
  await (await post(app, PATH, { messages, top_p: 0 })).text();
  const { topP, topK } = engine.requests[0]!.request.sampling;
  assertEquals([topP, topK], [1, 1]);
});

Deno.test("chat renders parts, developer messages, variables and no generation prompt", async () => {
  const { app, engine, tokenizer } = fakeApp();
  const response = await post(app, PATH, {
    messages: [
      { role: "developer", content: "Be brief" },
      { role: "user", content: [{ type: "text", text: "a" }, { type: "text", text: "b" }] },
    ],
    add_generation_prompt: false,
    chat_template_kwargs: { prefix: "P" },
  });
  await response.text();
  const text = tokenizer.decode(engine.requests[0]!.request.promptTokenIds, { skipSpecialTokens: false });
  assertEquals(text, "P<|start|>system: Be brief<|end|><|start|>user: a\nb<|end|>");
});

Deno.test("chat says what to use when the model has no chat template", async () => {
  const { app } = fakeApp({ chatTemplate: null });
  const response = await post(app, PATH, { messages });
  assertEquals(response.status, 400);
  assertStringIncludes((await response.json()).error.message, "/v1/completions");
});

Deno.test("chat answers 400 with the template's words when it refuses the messages", async () => {
  const { app } = fakeApp();
  const response = await post(app, PATH, { messages: [{ role: "assistant", content: "Hi" }] });
  assertEquals(response.status, 400);
  assertStringIncludes((await response.json()).error.message, "Conversations begin with the user");
});

Deno.test("chat uses the client's request id", async () => {
  const { app } = fakeApp();
  const body = await (await post(app, PATH, { messages, request_id: "run-1" })).json();
  assertEquals(body.id, "chatcmpl-run-1");
});
