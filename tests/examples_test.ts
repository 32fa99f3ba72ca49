/** Runs every TypeScript example of README.md and docs/library.md as its reader would. */
import { assertEquals, assertGreater } from "@std/assert";
import { fetchDemoModel } from "../models/demo.ts";
import { serve } from "../serve.ts";

const ROOT = new URL("../", import.meta.url);

async function run(code: string): Promise<string> {
  const file = await Deno.makeTempFile({ suffix: ".ts" });
  await Deno.writeTextFile(file, code);
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--config", new URL("deno.json", ROOT).pathname, file],
    env: { NO_COLOR: "1" },
  }).output();
  await Deno.remove(file);
  assertEquals(success, true, `${code}\n${new TextDecoder().decode(stderr)}`);
  return new TextDecoder().decode(stdout);
}

for (const page of ["README.md", "docs/library.md"]) {
  const text = await Deno.readTextFile(new URL(page, ROOT));
  const examples = [...text.matchAll(/```ts\n([\s\S]*?)```/g)].map((match) => match[1]!);
  examples.forEach((example, i) =>
    Deno.test(`${page}: example ${i + 1} runs and prints`, async () => {
      await using server = await serve({ port: 0, kvCacheMemory: { bytes: 2 ** 28 }, log: () => {} });
      const code = example
        .replaceAll('"@octavo/octavo"', JSON.stringify(new URL("mod.ts", ROOT).href))
        .replaceAll('"model.gguf"', JSON.stringify(await fetchDemoModel()))
        .replaceAll("http://127.0.0.1:8000", server.url);
      assertGreater((await run(code)).trim().length, 0);
    })
  );
  Deno.test(`${page} has examples`, () => assertGreater(examples.length, 0));
}
