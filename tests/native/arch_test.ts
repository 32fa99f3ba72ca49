import { assertEquals } from "@std/assert";

const ROOT = new URL("../../", import.meta.url).pathname;
const SOURCES = ["aligned_buffer", "error", "memory", "thread_pool"].map((name) => `${ROOT}cuda/arch/${name}.cpp`);

// arch_tests.cpp says what is checked.
Deno.test("threads, buffers and memory hold at their limits", async () => {
  const folder = await Deno.makeTempDir({ prefix: "octavo-" });
  try {
    await Deno.mkdir(`${folder}/proc`);
    await Deno.mkdir(`${folder}/sys/fs/cgroup`, { recursive: true });
    const flags = ["-std=c++20", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread"];
    const include = ["-I", `${ROOT}cuda`, "-I", `${ROOT}cuda/include`];
    const program = `${folder}/arch_tests`;
    const compiled = await new Deno.Command("g++", {
      args: [...flags, ...include, `${ROOT}tests/native/arch_tests.cpp`, ...SOURCES, "-o", program],
    }).output();
    assertEquals(new TextDecoder().decode(compiled.stderr), "");
    const { stdout, stderr } = await new Deno.Command(program, { args: [folder] }).output();
    assertEquals(new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr), "all arch tests passed\n");
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
