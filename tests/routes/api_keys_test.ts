import { assertEquals, assertThrows } from "@std/assert";
import { readApiKeys } from "../../routes/api_keys.ts";
import { fakeApp, post, USER_MESSAGE } from "./_fake_engine.ts";

const CHAT = "/v1/chat/completions";

/** Reads keys from a file with this content. */
function read(content: unknown) {
  const path = Deno.makeTempFileSync({ suffix: ".json" });
  try {
    Deno.writeTextFileSync(path, typeof content === "string" ? content : JSON.stringify(content));
    return readApiKeys(path);
  } finally {
    Deno.removeSync(path);
  }
}

Deno.test("readApiKeys() reads names, keys and weights", () => {
  assertEquals(read([{ name: "a", key: "k1", weight: 3 }, { name: "b", key: "k2" }, { name: "b", key: "k3" }]), [
    { key: "k1", tenant: { name: "a", weight: 3 } },
    { key: "k2", tenant: { name: "b", weight: 1 } },
    { key: "k3", tenant: { name: "b", weight: 1 } },
  ]);
});

const SECRET = "sk-secret";
const BAD: [string, unknown, string][] = [
  ["no JSON", `[{"name": "a", "key": "${SECRET}" oh}]`, "expected JSON"],
  ["no list", { key: SECRET }, "the whole"],
  ["no keys", [], "the whole"],
  ["no name", [{ key: SECRET }], "0.name"],
  ["a key with spaces", [{ name: "a", key: `${SECRET} x` }], "0.key"],
  ["a weight of 0", [{ name: "a", key: SECRET, weight: 0 }], "0.weight"],
  ["a misspelt field", [{ name: "a", key: SECRET, wieght: 2 }], "wieght"],
  ["two weights of a name", [{ name: "a", key: SECRET }, { name: "a", key: "x", weight: 2 }], "one weight"],
  ["a key twice", [{ name: "a", key: SECRET }, { name: "b", key: SECRET }], "once"],
];
for (const [name, content, part] of BAD) {
  Deno.test(`readApiKeys() says what is wrong with ${name}, and no key`, () => {
    const { message } = assertThrows(() => read(content), RangeError, part);
    assertEquals(message.includes(SECRET), false, message);
  });
}

Deno.test("readApiKeys() names the file that is not there", () => {
  assertThrows(() => readApiKeys("/no/such/keys.json"), RangeError, "/no/such/keys.json");
});

Deno.test("a request goes to the engine as its key's tenant, all of its prompts", async () => {
  const apiKeys = [3, 1].map((weight) => ({ key: `key${weight}`, tenant: { name: `t${weight}`, weight } }));
  const { app, engine } = fakeApp({ apiKeys });
  const headers = (key: string) => ({
    headers: { "content-type": "application/json", authorization: `Bearer ${key}` },
  });
  await (await post(app, CHAT, { messages: [USER_MESSAGE] }, headers("key1"))).text();
  await (await post(app, "/v1/completions", { prompt: ["a", "b"] }, headers("key3"))).text();
  const [one, three] = [{ name: "t1", weight: 1 }, { name: "t3", weight: 3 }];
  assertEquals(engine.requests.map(({ request }) => request.tenant), [one, three, three]);
  const open = fakeApp();
  await (await post(open.app, CHAT, { messages: [USER_MESSAGE] })).text();
  assertEquals(open.engine.requests[0]!.request.tenant, undefined);
});
