import { assertEquals } from "@std/assert";

const ROOT = new URL("../../", import.meta.url).pathname;

// attention_plan_tests.cpp says what is checked.
Deno.test("AttentionPlan cuts every step's work once, and takes no memory for it", async () => {
  const folder = await Deno.makeTempDir({ prefix: "octavo-" });
  try {
    const program = `${folder}/attention_plan_tests`;
    const flags = ["-std=c++20", "-O1", "-Wall", "-Wextra", "-Werror", "-fsanitize=undefined"];
    const include = ["-I", `${ROOT}cuda`, "-I", `${ROOT}cuda/include`];
    const sources = [`${ROOT}tests/native/attention_plan_tests.cpp`, `${ROOT}cuda/attn/attention_plan.cpp`];
    const compiled = await new Deno.Command("g++", { args: [...flags, ...include, ...sources, "-o", program] })
      .output();
    assertEquals(new TextDecoder().decode(compiled.stderr), "");
    const { stdout, stderr } = await new Deno.Command(program).output();
    assertEquals(
      new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr),
      "all attention plan tests passed\n",
    );
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
