import { assertEquals } from "@std/assert";
import { pathToFileURL } from "node:url";
import { removeForeignCache } from "../../scripts/build.ts";

Deno.test("removeForeignCache() keeps CMake's folder only when it was made for the same settings", async () => {
  const folder = pathToFileURL(`${await Deno.makeTempDir()}/cmake/`);
  const expected = { CMAKE_HOME_DIRECTORY: "/project/cuda", CMAKE_GENERATOR: "Ninja" };
  const isKept = async (home: string, generator: string) => {
    await Deno.mkdir(folder, { recursive: true });
    const text = `# cache\nCMAKE_GENERATOR:INTERNAL=${generator}\nCMAKE_HOME_DIRECTORY:INTERNAL=${home}\n`;
    await Deno.writeTextFile(new URL("CMakeCache.txt", folder), text);
    await removeForeignCache(folder, expected);
    return await Deno.stat(folder).then(() => true, () => false);
  };
  await removeForeignCache(folder, expected);
  assertEquals(await isKept("/project/cuda", "Ninja"), true);
  assertEquals(await isKept("/moved/cuda", "Ninja"), false);
  assertEquals(await isKept("/project/cuda", "Unix Makefiles"), false);
  await Deno.remove(new URL("../", folder), { recursive: true });
});
