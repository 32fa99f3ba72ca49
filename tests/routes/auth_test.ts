import { assert, assertEquals } from "@std/assert";
import { ENDPOINTS } from "../../routes/reference.ts";
import { fakeApp } from "./_fake_engine.ts";

const KEY = "secret-key";
const KEYS = ["other", KEY, KEY.slice(0, 3)].map((key) => ({ key, tenant: { name: key, weight: 1 } }));

Deno.test("every route asks for the key but liveness, unknown ones too", async () => {
  const { app } = fakeApp({ apiKeys: KEYS });
  const routes = [
    ...ENDPOINTS,
    { method: "get", path: "/no/such/route", isOpen: false },
    { method: "post", path: "/v1/embeddings", isOpen: false },
    { method: "delete", path: "/v1/models/demo", isOpen: false },
  ];
  for (const { method, path, isOpen } of routes) {
    const response = await app.request(path.replace("{id}", "demo"), { method: method.toUpperCase() });
    const text = await response.text();
    if (isOpen) {
      assertEquals(response.status, 200, path);
      continue;
    }
    assertEquals([response.status, JSON.parse(text).error.code], [401, "invalid_api_key"], path);
    assertEquals(response.headers.get("www-authenticate"), "Bearer");
    assert(response.headers.has("x-request-id"));
  }
});

Deno.test("all routes of the app are in the reference, and the other way round", () => {
  const { app } = fakeApp();
  const routes = app.routes.filter(({ method }) => method !== "ALL").map(({ method, path }) => {
    return `${method.toLowerCase()} ${path.replace(/:(\w+)\{.*\}/, "{$1}")}`;
  });
  assertEquals(new Set(routes), new Set(ENDPOINTS.map(({ method, path }) => `${method} ${path}`)));
});

const HEADERS: [string, string | null, number][] = [
  ["the key", `Bearer ${KEY}`, 200],
  ["the scheme in lower case", `bearer ${KEY}`, 200],
  ["no header", null, 401],
  ["an empty key", "Bearer ", 401],
  ["a prefix of the key", `Bearer ${KEY.slice(0, -1)}`, 401],
  ["a longer key", `Bearer ${KEY}x`, 401],
  ["the key in other letters", `Bearer ${KEY.toUpperCase()}`, 401],
  ["another scheme", `Basic ${KEY}`, 401],
  ["the bare key", KEY, 401],
];
for (const [name, authorization, status] of HEADERS) {
  Deno.test(`bearerAuth() answers ${status} to ${name}`, async () => {
    const { app } = fakeApp({ apiKeys: KEYS });
    const response = await app.request("/version", { headers: authorization === null ? {} : { authorization } });
    await response.text();
    assertEquals(response.status, status);
  });
}
