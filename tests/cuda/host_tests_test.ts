import { assertEquals } from "@std/assert";

// Lane maps, bank conflicts and plans of the CUDA kernels: host_tests.cpp says what is checked.
Deno.test("the kernels' lane maps and plans hold on the CPU", async () => {
  const folder = await Deno.makeTempDir({ prefix: "octavo-" });
  try {
    const root = new URL("../../", import.meta.url).pathname;
    const flags = ["-std=c++20", "-O1", "-Wall", "-Wextra", "-Werror", "-fsanitize=undefined"];
    const include = ["-I", `${root}cuda`, "-I", `${root}cuda/include`];
    const compiler = new Deno.Command("g++", {
      args: [...flags, ...include, `${root}tests/cuda/host_tests.cpp`, "-o", `${folder}/host_tests`],
    });
    const compiled = await compiler.output();
    assertEquals(new TextDecoder().decode(compiled.stderr), "");
    const { stdout, stderr } = await new Deno.Command(`${folder}/host_tests`).output();
    assertEquals(new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr), "all host tests passed\n");
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
