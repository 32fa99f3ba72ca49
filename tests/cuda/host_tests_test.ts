import { assertEquals } from "@std/assert";

// Lane maps, bank conflicts, descriptors and plans of the CUDA kernels: each program says what is checked.
for (const name of ["host_tests", "prefill_tests", "sampler_tests"]) {
  Deno.test(`the kernels' maps and plans hold on the CPU (${name})`, async () => {
    const folder = await Deno.makeTempDir({ prefix: "octavo-" });
    try {
      const root = new URL("../../", import.meta.url).pathname;
      const flags = [
        "-std=c++20",
        "-O1",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-Wno-unknown-pragmas",
        "-fsanitize=undefined",
      ];
      const include = ["-I", `${root}cuda`, "-I", `${root}cuda/include`];
      const compiler = new Deno.Command("g++", {
        args: [...flags, ...include, `${root}tests/cuda/${name}.cpp`, "-o", `${folder}/${name}`],
      });
      const compiled = await compiler.output();
      assertEquals(new TextDecoder().decode(compiled.stderr), "");
      const { stdout, stderr } = await new Deno.Command(`${folder}/${name}`).output();
      assertEquals(new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr), "all host tests passed\n");
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  });
}
