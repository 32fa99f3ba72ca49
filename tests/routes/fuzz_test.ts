/**
 * Whatever a client sends, the fault is never the server's: routers retry a 5xx on every replica.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { ENDPOINTS, fieldsOf } from "../../routes/reference.ts";
import { fakeApp, post, reply, USER_MESSAGE } from "./_fake_engine.ts";

const ODD_VALUES = fc.oneof(
  fc.jsonValue({ maxDepth: 3 }),
  fc.constantFrom<unknown>(
    0,
    -1,
    1.5,
    1e300,
    -1e300,
    2 ** 31,
    2 ** 53,
    "",
    "\ud800",
    "1",
    true,
    [],
    {},
    [[]],
    [null],
    null,
  ),
  fc.array(fc.integer(), { maxLength: 5 }),
  fc.array(fc.record({ role: fc.constantFrom("user", "system", "x"), content: fc.jsonValue({ maxDepth: 2 }) })),
);
const BASES: Record<string, Record<string, unknown>> = {
  "/v1/chat/completions": { messages: [USER_MESSAGE], max_tokens: 4 },
  "/v1/completions": { prompt: "a", max_tokens: 4 },
  "/v1/responses": { input: "a", max_output_tokens: 4 },
  "/tokenize": { prompt: "a" },
  "/detokenize": { tokens: [97] },
  "/v1/kv/compare": { prompt: "a", max_tokens: 4 },
};

function fuzzedApp() {
  const { app, engine } = fakeApp({ enablesKvCompare: true });
  engine.script = reply("ok");
  engine.compare = () => Promise.resolve({ reference: "float32", kvCacheDtype: "int8", tokens: [] });
  return app;
}

for (const { path, body, refused } of ENDPOINTS.filter(({ body }) => body !== undefined)) {
  Deno.test(`POST ${path} answers 200 or 4xx in the envelope to any JSON`, async () => {
    const app = fuzzedApp();
    const names = [...fieldsOf(body!).map(({ name }) => name), ...Object.keys(refused ?? {}), "unknown", "__proto__"];
    const changes = fc.array(fc.tuple(fc.constantFrom(...names), ODD_VALUES), { minLength: 1, maxLength: 3 });
    await fc.assert(
      fc.asyncProperty(changes, async (pairs) => {
        const response = await post(app, path, { ...BASES[path], ...Object.fromEntries(pairs) });
        const text = await response.text();
        assert([200, 400, 404].includes(response.status), `${response.status} ${text}`);
        if (response.status === 200) return;
        const { error } = JSON.parse(text);
        assertEquals(Object.keys(error), ["message", "type", "param", "code"]);
        assert(error.message.length < 500, error.message);
      }),
      { numRuns: 400, seed: 1 },
    );
  });

  Deno.test(`POST ${path} answers 200 or 400 in the envelope to any text`, async () => {
    const app = fuzzedApp();
    const valid = JSON.stringify(BASES[path]);
    await fc.assert(
      fc.asyncProperty(fc.nat(valid.length), fc.nat(3), fc.string({ maxLength: 3 }), async (at, cut, put) => {
        const response = await post(app, path, valid.slice(0, at) + put + valid.slice(at + cut));
        const text = await response.text();
        assert([200, 400].includes(response.status), `${response.status} ${text}`);
      }),
      { numRuns: 300, seed: 1 },
    );
  });
}
