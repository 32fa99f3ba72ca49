import { assertEquals, assertThrows } from "@std/assert";
import { withChatTemplate } from "../../models/chat_template_file.ts";
import { ModelFileError } from "../../models/errors.ts";
import { openModel } from "../../models/open_model.ts";
import { dataPath, withTempFolder } from "./_fixtures.ts";

const model = await openModel(dataPath("tiny/base"));

Deno.test("withChatTemplate() renders by the file, with the model's tokens, and ends at the turn ends that it writes", () =>
  withTempFolder((folder) => {
    const file = `${folder}/chat.jinja`;
    Deno.writeTextFileSync(
      file,
      "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}<|im_end|>{% endfor %}{{ eos_token }}",
    );
    const { chatTemplate, eosTokenIds, tokenizer } = withChatTemplate({ ...model, eosTokenIds: [0] }, file);
    const bos = tokenizer.idToToken(tokenizer.bosTokenId!);
    const expected = `${bos}[user] Hi<|im_end|>${tokenizer.idToToken(0)}`;
    assertEquals(chatTemplate!.render([{ role: "user", content: "Hi" }]), expected);
    assertEquals(eosTokenIds, [0, 2]);
  }));

Deno.test("withChatTemplate() says what is wrong with the file", () =>
  withTempFolder((folder) => {
    const file = `${folder}/chat.jinja`;
    assertThrows(() => withChatTemplate(model, file), ModelFileError, "chat template cannot be read");
    Deno.writeTextFileSync(file, "{% for m in messages %}");
    assertThrows(() => withChatTemplate(model, file), ModelFileError, "is no valid Jinja template");
  }));
