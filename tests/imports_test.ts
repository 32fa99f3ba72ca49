import { assertEquals, assertGreater } from "@std/assert";

/** What each folder may import from, itself aside. Imports run downward only (docs/architecture.md). */
const ALLOWED: Record<string, readonly string[]> = {
  routes: ["engine", "models"],
  engine: ["models", "ffi"],
  models: [],
  ffi: [],
};
const ROOT = new URL("..", import.meta.url);

async function sources(folder: string): Promise<string[]> {
  const files: string[] = [];
  for await (const entry of Deno.readDir(new URL(`${folder}/`, ROOT))) {
    if (entry.isDirectory) files.push(...await sources(`${folder}/${entry.name}`));
    else if (/\.tsx?$/.test(entry.name)) files.push(`${folder}/${entry.name}`);
  }
  return files;
}

/** Relative specifiers of static imports, re-exports, dynamic imports and Worker entries. */
function relativeImports(text: string): string[] {
  return [...text.matchAll(/(?:from|import|import\(|new URL\()\s*["'`](\.[^"'`]+\.tsx?)["'`]/g)].map((m) => m[1]!);
}

for (const [folder, allowed] of Object.entries(ALLOWED)) {
  Deno.test(`${folder}/ imports only from ${[folder, ...allowed].join(", ")}`, async () => {
    const files = await sources(folder);
    assertGreater(files.length, 0);
    for (const file of files) {
      const text = await Deno.readTextFile(new URL(file, ROOT));
      for (const specifier of relativeImports(text)) {
        const target = new URL(specifier, new URL(file, ROOT)).href.slice(ROOT.href.length);
        const [top] = target.split("/");
        assertEquals([folder, ...allowed].includes(top!) && target.includes("/"), true, `${file} imports ${target}`);
      }
    }
  });
}

Deno.test("only ffi/ opens native libraries", async () => {
  for (const folder of ["routes", "engine", "models"]) {
    for (const file of await sources(folder)) {
      const text = await Deno.readTextFile(new URL(file, ROOT));
      assertEquals(/Deno\.(dlopen|UnsafePointer|UnsafeCallback)/.test(text), false, file);
    }
  }
});
