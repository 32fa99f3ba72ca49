import { assertEquals } from "@std/assert";
import { reasoningMode, ReasoningSplitter, splitReasoning } from "../../routes/_reasoning.ts";
import { events, fakeApp, fakeTemplate, post, reply, USER_MESSAGE } from "./_fake_engine.ts";

const PATH = "/v1/chat/completions";
const THOUGHT = "<think>\nTwo < three, so </b> ...\n</think>\n\nYes. <think> is a tag.";
const PARTS = { reasoning: "Two < three, so </b> ...", content: "Yes. <think> is a tag." };

/** What comes of a text in pieces of a length, put together. */
function inPieces(text: string, length: number, isBegun = false) {
  const splitter = new ReasoningSplitter(isBegun);
  const sum = { reasoning: "", content: "" };
  for (let i = 0; i < text.length; i += length) add(splitter.push(text.slice(i, i + length)));
  add(splitter.flush());
  return sum;

  function add(part: typeof sum): void {
    sum.reasoning += part.reasoning;
    sum.content += part.content;
  }
}

Deno.test("ReasoningSplitter parts reasoning from content, whatever the pieces", () => {
  const cases: [string, boolean, typeof PARTS][] = [
    [THOUGHT, false, PARTS],
    [`  \n${THOUGHT}`, false, PARTS],
    [THOUGHT.slice("<think>".length), true, PARTS],
    ["No thought.", false, { reasoning: "", content: "No thought." }],
    [" <thin air>", false, { reasoning: "", content: " <thin air>" }],
    [" <thi", false, { reasoning: "", content: " <thi" }],
    ["<think>\n\n</think>\n\nYes", false, { reasoning: "", content: "Yes" }],
    ["<think>cut off </thi", false, { reasoning: "cut off </thi", content: "" }],
    ["<think>cut off \n", false, { reasoning: "cut off", content: "" }],
    ["<think>a</think>\n", false, { reasoning: "a", content: "" }],
    [`<think>a${" ".repeat(100)}b</think>c`, false, { reasoning: `a${" ".repeat(100)}b`, content: "c" }],
    ["", false, { reasoning: "", content: "" }],
    ["", true, { reasoning: "", content: "" }],
  ];
  for (const [text, isBegun, expected] of cases) {
    for (const length of [1, 2, 3, 7, 1000]) assertEquals(inPieces(text, length, isBegun), expected, text);
    assertEquals(splitReasoning(text, isBegun), expected);
  }
});

Deno.test("ReasoningSplitter holds back no more than may be a tag or white space beside one", () => {
  const splitter = new ReasoningSplitter(false);
  assertEquals(splitter.push("<think>"), { reasoning: "", content: "" });
  assertEquals(splitter.push("abc </"), { reasoning: "abc", content: "" });
  assertEquals(splitter.push("b>"), { reasoning: " </b>", content: "" });
  assertEquals(splitter.push("</think> d "), { reasoning: "", content: "d " });
  assertEquals(splitter.push(" e"), { reasoning: "", content: " e" });
});

Deno.test("reasoningMode() is begun by prompts that end with the tag, and none where nothing is separated", () => {
  const prompts = ["x<think>\n", "x<think>", "<think>\n\n</think>\n\n", ""];
  assertEquals(prompts.map((prompt) => reasoningMode(true, prompt)), ["begun", "begun", "possible", "possible"]);
  assertEquals(prompts.map((prompt) => reasoningMode(false, prompt)), ["none", "none", "none", "none"]);
});

Deno.test("chat returns reasoning beside the content, streamed and whole", async () => {
  const { app, engine } = fakeApp();
  engine.script = reply(THOUGHT);
  const body = { messages: [USER_MESSAGE], n: 2, logprobs: true };
  const { choices, usage } = await (await post(app, PATH, body)).json();
  for (const { message } of choices) {
    assertEquals(message, {
      role: "assistant",
      content: PARTS.content,
      refusal: null,
      reasoning_content: PARTS.reasoning,
    });
  }
  const chunks = events(await (await post(app, PATH, { ...body, stream: true })).text()).filter((one) =>
    one !== "[DONE]"
  );
  for (const index of [0, 1]) {
    const own = chunks.flatMap((chunk) => chunk.choices).filter((choice) => choice.index === index);
    assertEquals(own.map(({ delta }) => delta.reasoning_content ?? "").join(""), PARTS.reasoning);
    assertEquals(own.map(({ delta }) => delta.content ?? "").join(""), PARTS.content);
    // No token is lost to what is held back.
    const numTokens = own.reduce((sum, { logprobs }) => sum + (logprobs?.content.length ?? 0), 0);
    assertEquals(2 * numTokens, usage.completion_tokens);
  }
});

Deno.test("chat knows reasoning that the prompt has begun", async () => {
  const { app, engine } = fakeApp({
    chatTemplate: { ...fakeTemplate, render: (...args) => `${fakeTemplate.render(...args)}<think>\n` },
  });
  engine.script = reply("Hm.\n</think>\nYes.");
  const { choices } = await (await post(app, PATH, { messages: [USER_MESSAGE] })).json();
  assertEquals([choices[0].message.reasoning_content, choices[0].message.content], ["Hm.", "Yes."]);
});

Deno.test("chat leaves the text as it is where reasoning is not to be separated", async () => {
  for (const [separatesReasoning, given] of [[true, false], [false, undefined]] as const) {
    const { app, engine } = fakeApp({ separatesReasoning });
    engine.script = reply(THOUGHT);
    const body = { messages: [USER_MESSAGE], separate_reasoning: given };
    const { choices } = await (await post(app, PATH, body)).json();
    assertEquals(choices[0].message, { role: "assistant", content: THOUGHT, refusal: null });
    const text = await (await post(app, PATH, { ...body, stream: true })).text();
    const chunks = events(text).filter((one) => one !== "[DONE]");
    assertEquals(chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join(""), THOUGHT);
  }
});
