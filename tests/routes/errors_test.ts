import { assert, assertEquals, assertMatch, assertStringIncludes, unreachable } from "@std/assert";
import { EngineError, OverloadedError, RequestError } from "../../engine/errors.ts";
import { ENDPOINTS } from "../../routes/reference.ts";
import { CHAT_REFUSED_FIELDS, COMPLETION_REFUSED_FIELDS } from "../../routes/schemas/refused_fields.ts";
import { fakeApp, post, USER_MESSAGE } from "./_fake_engine.ts";

const CHAT = "/v1/chat/completions";
const COMPLETIONS = "/v1/completions";
const messages = [USER_MESSAGE];
const deep = JSON.parse("[".repeat(100) + "]".repeat(100));

/** Name, path, body, `param`, part of the message. */
const BAD: [string, string, unknown, string | null, string][] = [
  ["malformed JSON", CHAT, "{", null, "as JSON"],
  ["NaN, which Python writes", CHAT, '{"messages": [], "temperature": NaN}', null, "as JSON"],
  ["a list as body", CHAT, "[1]", null, "JSON object"],
  ["an empty body", CHAT, "", null, "as JSON"],
  ["no messages field", CHAT, {}, "messages", "missing"],
  ["empty messages", CHAT, { messages: [] }, "messages", "[]"],
  ["a message without content", CHAT, { messages: [{ role: "user" }] }, "messages[0].content", "missing"],
  ["null content", CHAT, { messages: [{ role: "user", content: null }] }, "messages[0].content", "null"],
  ["an unknown role", CHAT, { messages: [{ role: "tool", content: "x" }] }, "messages[0].role", '"tool"'],
  [
    "an image",
    CHAT,
    { messages: [{ role: "user", content: [{ type: "text", text: "a" }, { type: "image_url", image_url: {} }] }] },
    "messages[0].content[1].type",
    '"image_url"',
  ],
  [
    "tool calls",
    CHAT,
    { messages: [{ role: "assistant", content: "", tool_calls: [{ id: "1" }] }] },
    "messages[0].tool_calls",
    "not supported yet",
  ],
  ["top_logprobs without logprobs", CHAT, { messages, top_logprobs: 2 }, "top_logprobs", '"logprobs": true'],
  ["too many top_logprobs", CHAT, { messages, logprobs: true, top_logprobs: 21 }, "top_logprobs", "at most 20"],
  [
    "reserved template variables",
    CHAT,
    { messages, chat_template_kwargs: { messages: 1 } },
    "chat_template_kwargs.messages",
    "set by the server",
  ],
  [
    "odd template variables",
    CHAT,
    { messages, chat_template_kwargs: { "a b": 1 } },
    "chat_template_kwargs.a b",
    "identifier",
  ],
  ["deep values", CHAT, { messages, chat_template_kwargs: { a: deep } }, null, "nested at most"],
  ["very many values", CHAT, { messages, stop_token_ids: Array(70_000).fill(0) }, null, "at most 65536 values"],
  [
    "very many fields",
    CHAT,
    `{${Array.from({ length: 70_000 }, (_, i) => `"a${i}":0`)}}`,
    null,
    "at most 65536 values",
  ],
  ["many more values", COMPLETIONS, { prompt: Array(1_100_000).fill(1) }, null, "at most 1048576 values"],
  ["a deep prompt", COMPLETIONS, { prompt: deep }, null, "nested at most"],
  ["text as number", CHAT, { messages, temperature: "1" }, "temperature", 'received "1"'],
  ["negative temperature", CHAT, { messages, temperature: -0.1 }, "temperature", "received -0.1"],
  [
    "huge temperature",
    CHAT,
    '{"messages":[{"role":"user","content":"a"}],"temperature":1e999}',
    "temperature",
    "Infinity",
  ],
  ["top_p above 1", CHAT, { messages, top_p: 1.01 }, "top_p", "received 1.01"],
  ["negative top_p", CHAT, { messages, top_p: -1 }, "top_p", "received -1"],
  ["top_k below -1", CHAT, { messages, top_k: -2 }, "top_k", "received -2"],
  ["a fraction as top_k", CHAT, { messages, top_k: 1.5 }, "top_k", "received 1.5"],
  ["min_p above 1", CHAT, { messages, min_p: 2 }, "min_p", "received 2"],
  ["n of zero", CHAT, { messages, n: 0 }, "n", "received 0"],
  ["huge n", CHAT, { messages, n: 1_000_000 }, "n", "received 1000000"],
  ["n beyond all integers", CHAT, { messages, n: 1e300 }, "n", "received 1e+300"],
  ["negative max_tokens", CHAT, { messages, max_tokens: -1 }, "max_tokens", "received -1"],
  ["no max_completion_tokens", CHAT, { messages, max_completion_tokens: 0 }, "max_completion_tokens", "received 0"],
  ["huge max_tokens", CHAT, { messages, max_tokens: 2 ** 40 }, "max_tokens", "received 1099511627776"],
  ["min_tokens above max_tokens", CHAT, { messages, max_tokens: 2, min_tokens: 3 }, "min_tokens", "received 3"],
  ["presence_penalty out of range", CHAT, { messages, presence_penalty: 3 }, "presence_penalty", "received 3"],
  ["frequency_penalty out of range", CHAT, { messages, frequency_penalty: -3 }, "frequency_penalty", "received -3"],
  ["repetition_penalty of zero", CHAT, { messages, repetition_penalty: 0 }, "repetition_penalty", "received 0"],
  ["a text as seed", CHAT, { messages, seed: "x" }, "seed", 'received "x"'],
  ["an empty stop text", CHAT, { messages, stop: "" }, "stop", 'received ""'],
  ["too many stops", CHAT, { messages, stop: Array(65).fill("a") }, "stop", "a list of 65"],
  ["a very long stop", CHAT, { messages, stop: "a".repeat(2000) }, "stop", "aaa"],
  ["negative stop_token_ids", CHAT, { messages, stop_token_ids: [-1] }, "stop_token_ids[0]", "received -1"],
  ["a logit_bias out of range", CHAT, { messages, logit_bias: { "1": 101 } }, "logit_bias.1", "received 101"],
  ["a logit_bias for no token", CHAT, { messages, logit_bias: { "-1": 1 } }, "logit_bias.-1", "token id"],
  ["a number as stream", CHAT, { messages, stream: 1 }, "stream", "received 1"],
  ["a text as stream_options", CHAT, { messages, stream_options: "x" }, "stream_options", 'received "x"'],
  ["an odd request_id", CHAT, { messages, request_id: "a b" }, "request_id", 'received "a b"'],
  [
    "a prompt longer than the context",
    CHAT,
    { messages: [{ role: "user", content: "x".repeat(300) }] },
    "messages",
    "256",
  ],
  [
    "more tokens than the context holds",
    CHAT,
    { messages, max_tokens: 250 },
    "messages",
    "271 (21 of prompt, 250 of output)",
  ],

  ["no prompt field", COMPLETIONS, {}, "prompt", "missing"],
  ["an object as prompt", COMPLETIONS, { prompt: {} }, "prompt", "received {}"],
  ["an empty list of prompts", COMPLETIONS, { prompt: [] }, "prompt", "received []"],
  ["an empty list of token ids", COMPLETIONS, { prompt: [[]] }, "prompt", "no tokens"],
  [
    "an empty text without special tokens",
    COMPLETIONS,
    { prompt: "", add_special_tokens: false },
    "prompt",
    "no tokens",
  ],
  ["mixed prompts", COMPLETIONS, { prompt: ["a", [1]] }, "prompt", "all prompts as texts"],
  ["a text among token ids", COMPLETIONS, { prompt: [1, "a"] }, "prompt[1]", 'received "a"'],
  ["negative token ids", COMPLETIONS, { prompt: [[1], [-1]] }, "prompt[1][0]", "token ids"],
  ["fractions as token ids", COMPLETIONS, { prompt: [1.5] }, "prompt[0]", "received 1.5"],
  ["too many prompts", COMPLETIONS, { prompt: Array(1025).fill("a") }, "prompt", "at most 1024 prompts"],
  ["too many choices", COMPLETIONS, { prompt: Array(1024).fill("a"), n: 2 }, "n", "at most 1024 choices"],
  ["logprobs as boolean", COMPLETIONS, { prompt: "a", logprobs: true }, "logprobs", "received true"],
  ["negative logprobs", COMPLETIONS, { prompt: "a", logprobs: -1 }, "logprobs", "received -1"],
  ["too many logprobs", COMPLETIONS, { prompt: "a", logprobs: 21 }, "logprobs", "at most 20"],
  ["too many prompt_logprobs", COMPLETIONS, { prompt: "a", prompt_logprobs: 21 }, "prompt_logprobs", "at most 20"],
  ["negative prompt_logprobs", COMPLETIONS, { prompt: "a", prompt_logprobs: -1 }, "prompt_logprobs", "received -1"],
  [
    "prompt_logprobs in a stream",
    COMPLETIONS,
    { prompt: "a", prompt_logprobs: 0, stream: true },
    "prompt_logprobs",
    "not offered",
  ],
  [
    "a stream with too much of a prompt to echo",
    COMPLETIONS,
    { prompt: Array(250).fill(1), echo: true, logprobs: 19, stream: true, max_tokens: 1, n: 4 },
    "logprobs",
    "at most 16384",
  ],
  ["max_tokens 0 without echo", COMPLETIONS, { prompt: "a", max_tokens: 0 }, "max_tokens", "at least 1 without"],
  ["best_of below n", COMPLETIONS, { prompt: "a", n: 3, best_of: 2 }, "best_of", "at least n 3"],
  ["best_of in a stream", COMPLETIONS, { prompt: "a", best_of: 2, stream: true }, "best_of", "cannot be streamed"],
  ["too many choices to make", COMPLETIONS, { prompt: Array(9).fill("a"), best_of: 128 }, "best_of", "at most 1024"],
  ["no allowed token", COMPLETIONS, { prompt: "a", allowed_token_ids: [] }, "allowed_token_ids", "allowed_token_ids"],
  ["a bad word of spaces", COMPLETIONS, { prompt: "a", bad_words: ["  "] }, "bad_words", "more than spaces"],
  ["a prompt longer than the context", COMPLETIONS, { prompt: Array(256).fill(1) }, "prompt", "256"],
];
for (const [name, path, body, param, message] of BAD) {
  Deno.test(`POST ${path} answers 400 to ${name}`, async () => {
    const { app, engine } = fakeApp();
    const response = await post(app, path, body);
    const { error } = await response.json();
    assertEquals(response.status, 400, error?.message);
    assertEquals(response.headers.get("x-should-retry"), "false");
    assertEquals(Object.keys(error), ["message", "type", "param", "code"]);
    assertEquals(error.type, "invalid_request_error");
    assertEquals(error.param, param, error.message);
    assertStringIncludes(error.message, message);
    assert(error.message.length < 400, error.message);
    assertEquals(engine.requests.length, 0);
  });
}

for (const [path, refused] of [[CHAT, CHAT_REFUSED_FIELDS], [COMPLETIONS, COMPLETION_REFUSED_FIELDS]] as const) {
  for (const [name, { allowed }] of Object.entries(refused)) {
    Deno.test(`POST ${path} refuses ${name} by name unless it asks for nothing`, async () => {
      const { app } = fakeApp();
      const base = path === CHAT ? { messages } : { prompt: "a" };
      for (const value of [{ a: { b: 1 } }, "something", ["x", "y"], 77]) {
        const response = await post(app, path, { ...base, [name]: value });
        const { error } = await response.json();
        assertEquals([response.status, error.param, error.code], [400, name, "unsupported_parameter"]);
        assertStringIncludes(error.message, `"${name}" is not supported yet`);
      }
      for (const value of [null, ...allowed]) {
        const response = await post(app, path, { ...base, [name]: value });
        assertEquals(response.status, 200, await response.text());
      }
    });
  }
}

Deno.test("POST ignores fields that nobody knows and takes null as absent", async () => {
  const { app } = fakeApp();
  const nothing = { temperature: null, n: null, stop: null, logit_bias: null, stream: null, stream_options: null };
  for (const [path, base] of [[CHAT, { messages }], [COMPLETIONS, { prompt: "a" }]] as const) {
    const response = await post(app, path, { ...base, ...nothing, model: null, no_such_field: { a: [1] } });
    assertEquals(response.status, 200, await response.text());
  }
});

Deno.test("quotes, brackets and commas inside of strings do not count as values", async () => {
  const { app, engine } = fakeApp();
  for (const prompt of ["[".repeat(50), '\\"[{'.repeat(20), "\\\\", ",".repeat(100), '"'.repeat(99), "a\\"]) {
    const response = await post(app, COMPLETIONS, { prompt, user: "[".repeat(99) });
    assertEquals(response.status, 200, await response.text());
    const ids = engine.requests.at(-1)!.request.promptTokenIds;
    assertEquals(new TextDecoder().decode(Uint8Array.from(ids.slice(1))), prompt);
  }
});

Deno.test("context_length_exceeded names both numbers and costs no rendering or tokenizing when the text cannot fit", async () => {
  const render = () => unreachable("the template was rendered");
  const { app, tokenizer } = fakeApp({ chatTemplate: { source: "", render } });
  const text = "x".repeat(256 * 9 + 1);
  for (
    const [path, body] of [[COMPLETIONS, { prompt: text }], [CHAT, {
      messages: [{ ...USER_MESSAGE, content: text }],
    }]] as const
  ) {
    const response = await post(app, path, body);
    const { error } = await response.json();
    assertEquals([response.status, error.code], [400, "context_length_exceeded"]);
    assertMatch(error.message, /holds 256 tokens.*at least 257/);
    assertEquals(tokenizer.numEncodings, 0);
  }
});

Deno.test("requests answer 415 when the body is not declared as JSON", async () => {
  const { app } = fakeApp();
  for (const type of ["text/plain", "application/x-www-form-urlencoded", "application/jsonx"]) {
    const response = await post(app, CHAT, { messages }, { headers: { "content-type": type } });
    const { error } = await response.json();
    assertEquals(response.status, 415);
    assertStringIncludes(error.message, "application/json");
  }
  const response = await post(app, CHAT, { messages }, {
    headers: { "content-type": "Application/JSON; charset=utf-8" },
  });
  assertEquals(response.status, 200, await response.text());
});

Deno.test("requests answer 400 when the body is not UTF-8", async () => {
  const { app } = fakeApp();
  const response = await app.request(CHAT, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: Uint8Array.of(0x7b, 0x22, 0xff, 0x22, 0x7d),
  });
  assertEquals(response.status, 400);
  assertStringIncludes((await response.json()).error.message, "UTF-8");
});

Deno.test("requests answer 413 when the body is too large, declared or not", async () => {
  const { app } = fakeApp({ maxBodyBytes: 1000 });
  const body = JSON.stringify({ prompt: "x".repeat(2000) });
  const declared = await post(app, COMPLETIONS, body, {
    headers: { "content-type": "application/json", "content-length": String(body.length) },
  });
  const streamed = await post(app, COMPLETIONS, body);
  for (const response of [declared, streamed]) {
    const { error } = await response.json();
    assertEquals([response.status, error.type], [413, "invalid_request_error"]);
    assertStringIncludes(error.message, "1000 bytes");
  }
});

Deno.test("requests answer 404 model_not_found when the model is not served", async () => {
  const { app } = fakeApp();
  for (const [path, base] of [[CHAT, { messages }], [COMPLETIONS, { prompt: "a" }]] as const) {
    const response = await post(app, path, { ...base, model: "gpt-5" });
    const { error } = await response.json();
    assertEquals([response.status, error.code, error.param], [404, "model_not_found", "model"]);
    assertStringIncludes(error.message, '"demo", "org/demo"');
  }
});

Deno.test("unknown routes answer 404 and wrong methods 405, in the envelope", async () => {
  const { app } = fakeApp();
  const unknown = await app.request("/v1/nothing");
  assertEquals([unknown.status, (await unknown.json()).error.code], [404, "not_found"]);
  for (const { method, path } of ENDPOINTS) {
    const response = await app.request(path.replace("{id}", "demo"), { method: method === "get" ? "DELETE" : "GET" });
    assertEquals([response.status, (await response.json()).error.code], [405, "method_not_allowed"]);
    assertEquals(response.headers.get("allow"), method === "get" ? "GET, HEAD" : "POST");
  }
});

Deno.test("engine's refusals become 400, 429 with Retry-After or 503 with Retry-After", async () => {
  const { app, engine } = fakeApp();
  const cases: [Error, number, string | null, string | null][] = [
    [new RequestError("n must be at most 4", { param: "n" }), 400, null, null],
    [new OverloadedError("Too many requests wait"), 429, "rate_limit_exceeded", "1"],
    [new EngineError("secret path"), 503, "engine_unavailable", "5"],
  ];
  for (const [error, status, code, retryAfter] of cases) {
    engine.refuseWith = error;
    for (const stream of [false, true]) {
      const response = await post(app, CHAT, { messages, stream });
      const body = await response.json();
      assertEquals([response.status, body.error.code], [status, code]);
      assertEquals(response.headers.get("retry-after"), retryAfter);
      assertEquals(response.headers.get("x-should-retry"), retryAfter === null ? "false" : null);
      assert(!body.error.message.includes("secret"));
    }
  }
});

Deno.test("completions queue all prompts or none when the engine refuses one", async () => {
  const { app, engine } = fakeApp();
  engine.script = null;
  const submit = engine.submit.bind(engine);
  engine.submit = (request, sink) => {
    if (engine.requests.length === 2) throw new OverloadedError("Too many requests wait");
    return submit(request, sink);
  };
  const response = await post(app, COMPLETIONS, { prompt: ["a", "b", "c"] });
  assertEquals([response.status, (await response.json()).error.type], [429, "rate_limit_error"]);
  assertEquals(engine.requests.map(({ isAborted }) => isAborted), [true, true]);
});

Deno.test("requests beyond maxConcurrentRequests answer 429, and places are given back", async () => {
  const { app, engine } = fakeApp({ maxConcurrentRequests: 1 });
  engine.script = null;
  const first = post(app, CHAT, { messages });
  const request = await engine.submitted();
  const second = await post(app, CHAT, { messages });
  assertEquals([second.status, second.headers.get("retry-after")], [429, "1"]);
  await second.text();
  request.end();
  assertEquals((await first).status, 200);
  await (await first).text();
  for (const body of [{ messages: [] }, { messages }, { messages }]) {
    const response = post(app, CHAT, body);
    if (body.messages.length > 0) (await engine.submitted(engine.requests.length)).end();
    assert((await response).status !== 429);
    await (await response).text();
  }
});

Deno.test("failures of the engine end a whole response with 503 and a stream with an error event", async () => {
  const { app, engine } = fakeApp();
  engine.script = (fake) => {
    fake.emit({ text: "H", tokenIds: [72] });
    fake.fail(new EngineError("device lost"));
  };
  const whole = await post(app, CHAT, { messages });
  assertEquals([whole.status, (await whole.json()).error.type], [503, "server_error"]);
  const stream = await post(app, CHAT, { messages, stream: true });
  assertEquals(stream.status, 200);
  const all = (await stream.text()).trimEnd().split("\n\n");
  const last = JSON.parse(all.at(-1)!.slice("data: ".length));
  assertEquals(last, {
    error: { message: "The engine is not running", type: "server_error", param: null, code: "engine_unavailable" },
  });
});

Deno.test("an abort that no client asked for is an error, not a finish reason", async () => {
  const { app, engine } = fakeApp();
  engine.script = (fake) => {
    fake.emit({ tokenIds: [], finishReason: "abort" });
    fake.end();
  };
  assertEquals((await post(app, CHAT, { messages })).status, 503);
  const text = await (await post(app, CHAT, { messages, stream: true })).text();
  assert(!text.includes('abort"') && !text.includes("[DONE]"));
  assertStringIncludes(text, '"error"');
});

Deno.test("unexpected errors answer 500 without telling about the inside", async () => {
  const { app, engine } = fakeApp();
  engine.refuseWith = new TypeError("secret");
  const original = console.error;
  const logged: unknown[] = [];
  console.error = (...args) => logged.push(...args);
  try {
    const response = await post(app, CHAT, { messages });
    const { error } = await response.json();
    assertEquals([response.status, error.type], [500, "server_error"]);
    assert(!error.message.includes("secret"));
    assertEquals(response.headers.get("x-should-retry"), "false");
    assertEquals(logged, [engine.refuseWith]);
  } finally {
    console.error = original;
  }
});

Deno.test("responses carry the client's x-request-id, or a new one when it is odd", async () => {
  const { app } = fakeApp();
  for (const path of ["/version", "/nothing"]) {
    const echoed = await app.request(path, { headers: { "x-request-id": "abc-1" } });
    assertEquals(echoed.headers.get("x-request-id"), "abc-1");
    const made = await app.request(path, { headers: { "x-request-id": "a b" } });
    assertMatch(made.headers.get("x-request-id") ?? "", /^[0-9a-f-]{36}$/);
    await Promise.all([echoed.text(), made.text()]);
  }
});
