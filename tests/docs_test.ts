import { assert, assertEquals, assertGreater } from "@std/assert";
import { describeOptions } from "../options.ts";

const ROOT = new URL("../", import.meta.url);
const read = (path: string) => Deno.readTextFile(new URL(path, ROOT));

async function pages(): Promise<string[]> {
  const names = ["README.md", "CONTRIBUTING.md"];
  for await (const { name } of Deno.readDir(new URL("docs/", ROOT))) {
    if (name.endsWith(".md")) names.push(`docs/${name}`);
  }
  return names;
}

/** Paths in backticks that name a source file of the project. */
function sourcePaths(text: string): string[] {
  return [...text.matchAll(/`((?:routes|engine|models|ffi|cuda|tests|bench|scripts|docs)\/[\w./-]+\.\w+)`/g)]
    .map((m) => m[1]!);
}

Deno.test("docs name only files that exist", async () => {
  let count = 0;
  for (const page of await pages()) {
    for (const path of sourcePaths(await read(page))) {
      const isThere = await Deno.stat(new URL(path, ROOT)).then(() => true, () => false);
      assert(isThere, `${page} names ${path}, which does not exist`);
      count++;
    }
  }
  assertGreater(count, 30);
});

Deno.test("docs link only to pages that exist", async () => {
  for (const page of await pages()) {
    for (const [, target] of (await read(page)).matchAll(/\]\((?!https?:)([^)#]+)/g)) {
      const url = new URL(target!, new URL(page, ROOT));
      assert(await Deno.stat(url).then(() => true, () => false), `${page} links to ${target}`);
    }
  }
});

Deno.test("docs name only tasks that exist", async () => {
  const { tasks } = JSON.parse(await read("deno.json")) as { tasks: Record<string, string> };
  for (const page of await pages()) {
    for (const [, task] of (await read(page)).matchAll(/(?:deno|deno@[\d.]+) task ([\w:]+)/g)) {
      assert(task! in tasks, `${page} names the task ${task}`);
    }
  }
});

Deno.test("docs/options.md is what --help says", async () => {
  assertEquals(
    (await read("docs/options.md")).match(/```text\n([\s\S]*?)\n```/)?.[1],
    describeOptions().replaceAll(/^ {2}/gm, ""),
  );
});
