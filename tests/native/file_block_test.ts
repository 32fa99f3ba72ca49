import { assert, assertEquals } from "@std/assert";
import { DTYPE } from "../../ffi/enums.ts";
import { makeRandom } from "./_sampler.ts";
import { decodeWeights, randomBlocks, WEIGHT_FORMATS } from "./_weights.ts";

const ROOT = new URL("../../", import.meta.url).pathname;

/** Compiles file_block_tests.cpp and hands out what decodes stored elements. */
async function withDecoder(
  run: (decode: (dtype: number, stored: Uint8Array) => Promise<Float32Array>) => Promise<void>,
) {
  const folder = await Deno.makeTempDir({ prefix: "octavo-" });
  try {
    const program = `${folder}/file_block_tests`;
    const flags = ["-std=c++20", "-O1", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off", "-fsanitize=undefined"];
    const include = ["-I", `${ROOT}cuda`, "-I", `${ROOT}cuda/include`];
    const sources = [`${ROOT}tests/native/file_block_tests.cpp`, `${ROOT}cuda/gemm/format.cpp`];
    const args = [...flags, ...include, ...sources, "-o", program];
    const compiled = await new Deno.Command("g++", { args }).output();
    assertEquals(new TextDecoder().decode(compiled.stderr), "");
    await run(async (dtype, stored) => {
      await Deno.writeFile(`${folder}/stored`, stored);
      const output = await new Deno.Command(program, { args: [String(dtype), `${folder}/stored`] }).output();
      assertEquals(new TextDecoder().decode(output.stderr), "");
      return new Float32Array(output.stdout.slice().buffer);
    });
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

Deno.test("dequantize_block() and load_element() give what the formats define", async () => {
  await withDecoder(async (decode) => {
    for (const [name, format] of Object.entries(WEIGHT_FORMATS).filter(([, { blockCols }]) => blockCols > 1)) {
      const { stored } = randomBlocks(format, { count: 256 * 40, scale: 1, random: makeRandom(1) });
      const { values, magnitudes } = decodeWeights(format, stored);
      const decoded = await decode(format.dtype, stored);
      assertEquals(decoded.length, values.length, name);
      // Three roundings to f32: the scale, the product, the sum.
      decoded.forEach((value, i) => assert(Math.abs(value - values[i]!) <= 2 ** -22 * magnitudes[i]!, `${name} ${i}`));
    }
    const all16 = Uint16Array.from({ length: 65536 }, (_, i) => i);
    assertEquals(
      await decode(DTYPE.F16, new Uint8Array(all16.buffer)),
      Float32Array.from(new Float16Array(all16.buffer)),
    );
    const widened = new Float32Array(Uint32Array.from(all16, (bits) => bits * 65536).buffer);
    assertEquals(await decode(DTYPE.BF16, new Uint8Array(all16.buffer)), widened);
    const table = await Deno.readFile(new URL("../data/fp8/e4m3fn_decode.f32le", import.meta.url));
    const codes = Uint8Array.from({ length: 256 }, (_, i) => i);
    assertEquals(await decode(DTYPE.F8_E4M3, codes), new Float32Array(table.buffer));
  });
});
