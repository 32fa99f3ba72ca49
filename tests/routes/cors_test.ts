import { assertEquals } from "@std/assert";
import { fakeApp } from "./_fake_engine.ts";

const PAGE = "https://chat.example";
const KEYS = [{ key: "secret", tenant: { name: "default", weight: 1 } }];

/** What a browser asks before a page's request with a key and a JSON body. */
function preflight(origin: string): RequestInit {
  return {
    method: "OPTIONS",
    headers: {
      origin,
      "access-control-request-method": "POST",
      "access-control-request-headers": "authorization,content-type",
    },
  };
}

Deno.test("pages of the origins named may call the server, before they send their key", async () => {
  const { app } = fakeApp({ corsOrigins: [PAGE], apiKeys: KEYS });
  const asked = await app.request("/v1/chat/completions", preflight(PAGE));
  assertEquals(asked.status, 204);
  assertEquals(asked.headers.get("access-control-allow-origin"), PAGE);
  assertEquals(asked.headers.get("access-control-allow-headers"), "authorization,content-type");
  assertEquals(asked.headers.get("access-control-allow-methods"), "GET,HEAD,POST");
  const headers = { origin: PAGE, authorization: "Bearer secret" };
  const answer = await app.request("/v1/models", { headers });
  assertEquals([answer.status, answer.headers.get("access-control-allow-origin")], [200, PAGE]);
  assertEquals(answer.headers.get("access-control-expose-headers")?.includes("x-request-id"), true);
  // What is refused can be read too.
  const refused = await app.request("/v1/models", { headers: { origin: PAGE } });
  assertEquals([refused.status, refused.headers.get("access-control-allow-origin")], [401, PAGE]);
});

Deno.test("pages of other origins may not, nor any where none is named", async () => {
  for (const corsOrigins of [[PAGE], []]) {
    const { app } = fakeApp({ corsOrigins });
    const asked = await app.request("/v1/chat/completions", preflight("https://other.example"));
    assertEquals(asked.headers.get("access-control-allow-origin"), null);
    const answer = await app.request("/v1/models", { headers: { origin: "https://other.example" } });
    assertEquals([answer.status, answer.headers.get("access-control-allow-origin")], [200, null]);
  }
});

Deno.test('"*" lets the pages of every origin call the server', async () => {
  const { app } = fakeApp({ corsOrigins: ["*"] });
  const answer = await app.request("/v1/models", { headers: { origin: "null" } });
  assertEquals(answer.headers.get("access-control-allow-origin"), "*");
});
