import { assertEquals } from "@std/assert";
import { kvIndexOf, type RequestLimits } from "../../engine/admission.ts";
import { fakeApp, post, reply, USER_MESSAGE } from "./_fake_engine.ts";

for (
  const [path, body] of [
    ["/v1/chat/completions", { messages: [USER_MESSAGE] }],
    ["/v1/completions", { prompt: ["a", "b"] }],
  ] as const
) {
  Deno.test(`${path} hands a request's kv_cache_dtype on`, async () => {
    const { app, engine } = fakeApp();
    engine.script = reply("ok");
    await (await post(app, path, { ...body, kv_cache_dtype: "fp8" })).text();
    const numPrompts = engine.requests.length;
    await (await post(app, path, body)).text();
    await (await post(app, path, { ...body, kv_cache_dtype: null })).text();
    const dtypes = engine.requests.map(({ request }) => request.kvCacheDtype);
    assertEquals(dtypes.slice(0, numPrompts), dtypes.slice(0, numPrompts).fill("fp8"));
    assertEquals(dtypes.slice(numPrompts).every((dtype) => dtype === undefined), true);
  });

  Deno.test(`${path} refuses a kv_cache_dtype that is not enabled, with those that are`, async () => {
    const { app, engine } = fakeApp();
    const limits = { kvKinds: [{ kvDtype: "bfloat16", pageSize: 16 }, { kvDtype: "fp8_e4m3", pageSize: 32 }] } as const;
    // What the engine's client does.
    const { submit } = engine;
    engine.submit = (request, sink) => {
      kvIndexOf(request, limits as unknown as RequestLimits);
      return submit.call(engine, request, sink);
    };
    const response = await post(app, path, { ...body, kv_cache_dtype: "int4" });
    assertEquals([response.status, await response.json()], [400, {
      error: {
        message: 'kv_cache_dtype must be one that this server enables, bfloat16, fp8_e4m3; received "int4"',
        type: "invalid_request_error",
        param: "kv_cache_dtype",
        code: null,
      },
    }]);
  });
}
