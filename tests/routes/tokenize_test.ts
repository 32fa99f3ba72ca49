import { assertEquals, assertMatch } from "@std/assert";
import { BOS, fakeApp, post, TURN_END, TURN_START, USER_MESSAGE } from "./_fake_engine.ts";

const bytes = (text: string) => [...new TextEncoder().encode(text)];

Deno.test("/tokenize gives a prompt's token ids, with special tokens unless they are not wanted", async () => {
  const { app } = fakeApp();
  const json = async (body: unknown) => await (await post(app, "/tokenize", body)).json();
  const ab = { count: 3, max_model_len: 256, tokens: [BOS, 97, 98], token_strs: null };
  assertEquals(await json({ prompt: "ab" }), ab);
  assertEquals(await json({ prompt: "ab", model: "org/demo", return_token_strs: true }), {
    ...ab,
    token_strs: ["<s>", "a", "b"],
  });
  assertEquals((await json({ prompt: "ab", add_special_tokens: false })).tokens, [97, 98]);
  assertEquals((await json({ prompt: "" })).tokens, [BOS]);
});

Deno.test("/tokenize gives what chat makes of a conversation", async () => {
  const { app, engine } = fakeApp();
  for (const options of [{}, { add_generation_prompt: false }, { chat_template_kwargs: { prefix: "!" } }]) {
    const { tokens } = await (await post(app, "/tokenize", { messages: [USER_MESSAGE], ...options })).json();
    await (await post(app, "/v1/chat/completions", { messages: [USER_MESSAGE], ...options })).text();
    assertEquals(tokens, engine.requests.at(-1)!.request.promptTokenIds);
  }
});

Deno.test("/detokenize gives the text of token ids, special ones too", async () => {
  const { app } = fakeApp();
  const tokens = [BOS, ...bytes("caf\u00e9"), TURN_END];
  assertEquals(await (await post(app, "/detokenize", { tokens })).json(), { prompt: "<s>caf\u00e9<|end|>" });
  assertEquals(await (await post(app, "/detokenize", { tokens: [] })).json(), { prompt: "" });
  const many = Array.from({ length: 100_000 }, () => 97);
  assertEquals((await (await post(app, "/detokenize", { tokens: many })).json()).prompt.length, 100_000);
});

for (
  const [path, body, param, message] of [
    ["/tokenize", {}, "prompt", /either "prompt" or "messages"/],
    ["/tokenize", { prompt: "a", messages: [USER_MESSAGE] }, "prompt", /either "prompt" or "messages"/],
    ["/tokenize", { prompt: "x".repeat(10_000) }, "prompt", /holds 256 tokens/],
    ["/tokenize", { messages: [] }, "messages", /messages/],
    ["/detokenize", {}, "tokens", /expected a list of token ids/],
    ["/detokenize", { tokens: [97, -1] }, "tokens[1]", /expected token ids/],
    ["/detokenize", { tokens: [97, 259] }, "tokens", /expected ids below 259, received 259/],
  ] as const
) {
  Deno.test(`${path} refuses ${JSON.stringify(body).slice(0, 60)}`, async () => {
    const response = await post(fakeApp().app, path, body);
    const { error } = await response.json();
    assertEquals([response.status, error.param], [400, param]);
    assertMatch(error.message, message);
  });
}

Deno.test("/tokenize answers 404 for a model that is not served", async () => {
  const { app } = fakeApp();
  assertEquals((await post(app, "/tokenize", { prompt: "a", model: "other" })).status, 404);
  assertEquals((await post(app, "/detokenize", { tokens: [97], model: "other" })).status, 404);
});

Deno.test("chat goes on with the assistant's last message where continue_final_message says so", async () => {
  const { app, engine } = fakeApp();
  const send = async (messages: unknown[], options: Record<string, unknown> = {}) => {
    const body = { messages, continue_final_message: true, ...options };
    return await post(app, "/v1/chat/completions", body);
  };
  const begun = { role: "assistant", content: " I say Hi " };
  await (await send([USER_MESSAGE, begun])).text();
  const prompt = [TURN_START, ...bytes("user: Hi"), TURN_END, TURN_START, ...bytes("assistant:  I say Hi ")];
  assertEquals(engine.requests.at(-1)!.request.promptTokenIds, prompt);
  // What the template writes behind a message may hold the message's text.
  const { app: worded } = fakeApp({
    chatTemplate: { source: "", render: (turns) => turns.map(({ content }) => `${content}{end}`).join("") },
  });
  const body = { messages: [USER_MESSAGE, { role: "assistant", content: "en" }], continue_final_message: true };
  assertEquals((await (await post(worded, "/tokenize", body)).json()).tokens, bytes("Hi{end}en"));
  const refused: [unknown[], Record<string, unknown>, RegExp][] = [
    [[USER_MESSAGE], {}, /last message of the assistant, received one of role "user"/],
    [[USER_MESSAGE, begun], { add_generation_prompt: true }, /cannot both be true/],
    [[USER_MESSAGE, { ...begun, content: "" }], {}, /does not write its text as it is/],
  ];
  for (const [messages, options, message] of refused) {
    const response = await send(messages, options);
    const { error } = await response.json();
    assertEquals([response.status, error.param], [400, "continue_final_message"]);
    assertMatch(error.message, message);
  }
});
