import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { apiMarkdown } from "../../routes/_api_markdown.ts";
import { curlExample } from "../../routes/curl_example.ts";
import { ENDPOINTS, fieldsOf } from "../../routes/reference.ts";
import { fakeApp } from "./_fake_engine.ts";

Deno.test("docs/api.md is what the schemas say", async () => {
  const oneSpace = (text: string) => text.replaceAll(/\s+/g, " ");
  const written = await Deno.readTextFile(new URL("../../docs/api.md", import.meta.url));
  assertEquals(oneSpace(written), oneSpace(apiMarkdown()), "run deno task docs");
});

Deno.test("/openapi.json describes every endpoint with the schemas' limits", async () => {
  const { app } = fakeApp();
  const document = await (await app.request("/openapi.json")).json();
  assertEquals(document.openapi, "3.1.0");
  for (const { method, path, errors } of ENDPOINTS) {
    assertEquals(Object.keys(document.paths[path][method].responses), ["200", ...errors.map(String)]);
  }
  const chat = document.paths["/v1/chat/completions"].post.requestBody.content["application/json"].schema;
  assertEquals(chat.required, ["messages"]);
  assertEquals(chat.properties.temperature.anyOf[0], { type: "number", minimum: 0, maximum: 2 });
  const completion = document.paths["/v1/completions"].post.requestBody.content["application/json"].schema;
  assertEquals(completion.required, ["prompt"]);
  assertEquals(completion.properties.prompt.anyOf.length, 4);
});

Deno.test("/openapi.json answers 304 when the client has it", async () => {
  const { app } = fakeApp();
  const first = await app.request("/openapi.json");
  await first.text();
  const etag = first.headers.get("etag")!;
  const again = await app.request("/openapi.json", { headers: { "if-none-match": etag } });
  assertEquals([again.status, await again.text(), again.headers.get("etag")], [304, "", etag]);
  const other = await app.request("/openapi.json", { headers: { "if-none-match": '"other"' } });
  assertEquals(other.status, 200);
  await other.text();
});

Deno.test("every field has a description and a type", () => {
  for (const { path, body } of ENDPOINTS) {
    for (const { name, type, description } of body ? fieldsOf(body) : []) {
      assert(description.length > 5, `${path} ${name}`);
      assert(type !== "any" && !type.includes("null"), `${path} ${name}: ${type}`);
    }
  }
});

Deno.test("pages name the model and load nothing from elsewhere", async () => {
  const { app } = fakeApp({ modelNames: ["<demo's>"] });
  const status = await (await app.request("http://127.0.0.1:8000/")).text();
  for (
    const text of [
      "&lt;demo&#39;s&gt;",
      "fp8_e4m3",
      "1,600 tokens",
      "curl -N http://127.0.0.1:8000/v1/chat/completions",
    ]
  ) {
    assertStringIncludes(status, text);
  }
  const docs = await (await app.request("/docs")).text();
  for (const text of ["/v1/chat/completions", "max_completion_tokens", "Refused for now"]) {
    assertStringIncludes(docs, text);
  }
  for (const page of [status, docs]) {
    assert(!/<script|<link|src=|href="http/.test(page));
    assert(!page.includes("undefined") && !page.includes("[object"));
  }
});

Deno.test("the status page shows a completion when the model has no chat template", async () => {
  const { app } = fakeApp({ chatTemplate: null });
  assertStringIncludes(await (await app.request("/")).text(), "/v1/completions");
});

Deno.test("curlExample() can be pasted into a shell, whatever the model's name and the address", async () => {
  const example = { origin: "http://0.0.0.0:80", modelName: `it's "x"`, canChat: true, asksForKey: false };
  const command = curlExample(example);
  assertStringIncludes(command, "http://127.0.0.1:80/v1/chat/completions");
  assert(!command.includes("authorization"));
  const shell = new Deno.Command("sh", { args: ["-c", command.replace("curl", "printf '%s\\n'")] });
  const words = new TextDecoder().decode((await shell.output()).stdout).trim().split("\n");
  assertEquals(JSON.parse(words.at(-1)!).model, `it's "x"`);
  const other = curlExample({ origin: "http://[::]:80", modelName: "m", canChat: false, asksForKey: true });
  for (const text of ["http://[::1]:80/v1/completions", "-H 'authorization: Bearer YOUR_KEY'", '"prompt"']) {
    assertStringIncludes(other, text);
  }
});
