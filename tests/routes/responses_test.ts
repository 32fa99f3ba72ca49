/**
 * `/v1/responses`: whole, streamed, and through OpenAI's own client.
 *
 * @module
 */

import { assertEquals, assertMatch } from "@std/assert";
import OpenAI from "openai";
import { EngineError } from "../../engine/errors.ts";
import { fakeApp, post, reply, TURN_END, TURN_START } from "./_fake_engine.ts";

const PATH = "/v1/responses";
const THOUGHT = "<think>\nHm.\n</think>\n\nGrüße 👩‍👩‍👧";
const bytes = (text: string) => [...new TextEncoder().encode(text)];

// deno-lint-ignore no-explicit-any
type Json = any;

/** The events of a stream, whose names must be those of their data. */
function parse(text: string): Json[] {
  return text.split("\n\n").filter((event) => event !== "").map((event) => {
    const [, name, data] = /^event: (.+)\ndata: (.+)$/.exec(event)!;
    const parsed = JSON.parse(data!);
    assertEquals(parsed.type, name);
    return parsed;
  });
}

Deno.test("/v1/responses answers a text, with instructions before it", async () => {
  const { app, engine } = fakeApp();
  engine.script = reply("Hello");
  const body = { input: "Hi", instructions: "Be brief.", max_output_tokens: 20, temperature: 0, metadata: { a: "b" } };
  const response = await (await post(app, PATH, body)).json();
  assertEquals(engine.requests[0]!.request.promptTokenIds, [
    ...[TURN_START, ...bytes("system: Be brief."), TURN_END],
    ...[TURN_START, ...bytes("user: Hi"), TURN_END],
    ...[TURN_START, ...bytes("assistant:")],
  ]);
  const { maxTokens, temperature } = engine.requests[0]!.request.sampling;
  assertEquals([maxTokens, temperature], [20, 0]);
  assertMatch(response.id, /^resp_/);
  const { object, status, model, error, incomplete_details, instructions, max_output_tokens, metadata } = response;
  assertEquals([object, status, model, error, incomplete_details], ["response", "completed", "demo", null, null]);
  assertEquals([instructions, max_output_tokens, metadata], ["Be brief.", 20, { a: "b" }]);
  const [{ id, ...message }] = response.output;
  assertMatch(id, /^msg_/);
  assertEquals(message, {
    type: "message",
    role: "assistant",
    status: "completed",
    content: [{ type: "output_text", text: "Hello", annotations: [], logprobs: [] }],
  });
  const { input_tokens, output_tokens, total_tokens } = response.usage;
  const numPrompt = engine.requests[0]!.request.promptTokenIds.length;
  assertEquals([input_tokens, output_tokens, total_tokens], [numPrompt, 6, numPrompt + 6]);
});

Deno.test("/v1/responses takes a conversation of messages and reasoning", async () => {
  const { app, engine } = fakeApp();
  const input = [
    { type: "message", role: "user", content: [{ type: "input_text", text: "a" }, { type: "input_text", text: "b" }] },
    { type: "reasoning", id: "rs_1", summary: [] },
    { role: "assistant", content: [{ type: "output_text", text: "c" }] },
    { role: "user", content: "d" },
  ];
  await (await post(app, PATH, { input })).text();
  const text = "<|start|>user: a\nb<|end|><|start|>assistant: c<|end|><|start|>user: d<|end|><|start|>assistant:";
  const { tokens } = await (await post(app, "/tokenize", { prompt: text, add_special_tokens: false })).json();
  assertEquals(engine.requests[0]!.request.promptTokenIds, tokens);
});

Deno.test("/v1/responses parts reasoning from the message, and tells an answer that was cut", async () => {
  const { app, engine } = fakeApp();
  engine.script = reply(THOUGHT);
  for (const [max_output_tokens, status] of [[200, "completed"], [23, "incomplete"]] as const) {
    const whole = await (await post(app, PATH, { input: "Hi", max_output_tokens })).json();
    const content = max_output_tokens === 200 ? "Grüße 👩‍👩‍👧" : "G";
    assertEquals(whole.status, status);
    assertEquals(whole.incomplete_details, status === "completed" ? null : { reason: "max_output_tokens" });
    assertEquals(whole.output.map(({ type }: Json) => type), ["reasoning", "message"]);
    assertEquals(whole.output[0].content, [{ type: "reasoning_text", text: "Hm." }]);
    assertEquals([whole.output[1].status, whole.output[1].content[0].text], [status, content]);
    assertEquals(whole.usage.output_tokens_details.reasoning_tokens, bytes("<think>\nHm.\n</think>\n\n").length);
    const streamed = parse(await (await post(app, PATH, { input: "Hi", max_output_tokens, stream: true })).text());
    const last = streamed.at(-1);
    assertEquals(last.type, `response.${status}`);
    const withoutIds = (response: Json) => ({
      ...response,
      id: "",
      created_at: 0,
      output: response.output.map((item: Json) => ({ ...item, id: "" })),
    });
    assertEquals(withoutIds(last.response), withoutIds(whole));
  }
});

Deno.test("/v1/responses streams events in OpenAI's order, numbered", async () => {
  const { app, engine } = fakeApp();
  engine.script = reply("<think>a</think>bc");
  const streamed = parse(await (await post(app, PATH, { input: "Hi", stream: true })).text());
  assertEquals(streamed.map(({ sequence_number }) => sequence_number), streamed.map((_, i) => i));
  const item = (kind: string, numDeltas: number) => [
    "response.output_item.added",
    "response.content_part.added",
    ...Array.from({ length: numDeltas }, () => `response.${kind}.delta`),
    `response.${kind}.done`,
    "response.content_part.done",
    "response.output_item.done",
  ];
  assertEquals(streamed.map(({ type }) => type), [
    "response.created",
    "response.in_progress",
    ...item("reasoning_text", 1),
    ...item("output_text", 2),
    "response.completed",
  ]);
});

Deno.test("/v1/responses has an empty message where the answer holds no text", async () => {
  const { app, engine } = fakeApp();
  engine.script = reply("");
  const whole = await (await post(app, PATH, { input: "Hi" })).json();
  assertEquals(whole.output.map(({ content }: Json) => content[0].text), [""]);
  const streamed = parse(await (await post(app, PATH, { input: "Hi", stream: true })).text());
  assertEquals(streamed.at(-1).response.output[0].content[0].text, "");
});

Deno.test("/v1/responses ends a stream with an error event when the engine fails", async () => {
  const { app, engine } = fakeApp();
  engine.script = (request) => {
    request.emit({ text: "a", tokenIds: [97] });
    request.fail(new EngineError("The engine failed"));
  };
  const last = parse(await (await post(app, PATH, { input: "Hi", stream: true })).text()).at(-1);
  assertEquals([last.type, typeof last.message, last.sequence_number], ["error", "string", 5]);
});

for (
  const [body, param] of [
    [{}, "input"],
    [{ input: [] }, "input"],
    [{ input: [{ type: "function_call_output", call_id: "a", output: "b" }] }, "input"],
    [{ input: [{ role: "user", content: [{ type: "input_image", image_url: "x" }] }] }, "input"],
    [{ input: "a", previous_response_id: "resp_1" }, "previous_response_id"],
    [{ input: "a", tools: [{ type: "web_search" }] }, "tools"],
    [{ input: "a", truncation: "auto" }, "truncation"],
    [{ input: "a", text: { format: { type: "json_object" } } }, "text.format.type"],
    [{ input: "a", max_output_tokens: 0 }, "max_output_tokens"],
    [{ input: [{ type: "reasoning" }] }, "input"],
    [{ input: [{ role: "assistant", content: "a" }] }, "input"],
    [{ input: [{ role: "user", content: "a".repeat(5000) }] }, "input"],
  ] as const
) {
  Deno.test(`/v1/responses refuses ${JSON.stringify(body)}`, async () => {
    const response = await post(fakeApp().app, PATH, body);
    const { error } = await response.json();
    assertEquals([response.status, error.param?.startsWith(param)], [400, true], error.message);
  });
}

Deno.test("openai-node creates, streams and gathers responses", async () => {
  const { app, engine } = fakeApp();
  engine.script = reply(THOUGHT);
  await using server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen: () => {} }, app.fetch);
  const client = new OpenAI({ baseURL: `http://127.0.0.1:${server.addr.port}/v1`, apiKey: "none", maxRetries: 0 });
  const request = { model: "demo", input: "Hi" };
  const whole = await client.responses.create(request);
  assertEquals([whole.output_text, whole.status], ["Grüße 👩‍👩‍👧", "completed"]);
  let text = "";
  for await (const event of await client.responses.create({ ...request, stream: true })) {
    if (event.type === "response.output_text.delta") text += event.delta;
  }
  assertEquals(text, whole.output_text);
  const gathered = await client.responses.stream(request).finalResponse();
  assertEquals(gathered.output_text, whole.output_text);
  assertEquals(gathered.output.map(({ type }) => type), ["reasoning", "message"]);
});
