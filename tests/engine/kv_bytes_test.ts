import { assertEquals } from "@std/assert";
import { kvBytesPerToken } from "../../engine/kv_bytes.ts";
import { encodeShape, KV_DTYPES, takesHeadDim } from "../native/_kv.ts";
import { openLibrary } from "../native/_library.ts";

Deno.test("kvBytesPerToken() has the native library's figures for every dtype and head dimension", () => {
  const library = openLibrary(["octavo_kv_layer_page_bytes"]);
  for (const kvDtype of KV_DTYPES) {
    for (const headDim of [8, 40, 64, 72, 96, 128, 256]) {
      const shape = { kvDtype, pageSize: 16, numPages: 1, numKvHeads: 3, headDim };
      const expected = takesHeadDim(kvDtype, headDim)
        ? library.symbols.octavo_kv_layer_page_bytes(encodeShape(shape)) / 16
        : null;
      assertEquals(kvBytesPerToken(shape, [kvDtype]), expected, `${kvDtype}, head_dim ${headDim}`);
    }
  }
  library.close();
});

Deno.test("kvBytesPerToken() adds up layers of different dtypes", () => {
  const shape = { numKvHeads: 2, headDim: 64 };
  assertEquals(kvBytesPerToken(shape, ["fp8_e4m3", "bfloat16"]), 2 * 2 * 64 * (1 + 2));
});
