/** `scripts/serve.ts`, what `deno task serve` runs. */
import { assertEquals, assertMatch } from "@std/assert";
import { join } from "node:path";

const ROOT = new URL("../../", import.meta.url).pathname;
const TINY = `${ROOT}tests/data/tiny/base`;

function launcher(args: string[], env: Record<string, string> = {}): Deno.ChildProcess {
  const permissions = ["--allow-env", "--allow-read", "--allow-write", "--allow-net", "--allow-run"];
  return new Deno.Command(Deno.execPath(), {
    args: ["run", "--frozen", "--no-prompt", ...permissions, `${ROOT}scripts/serve.ts`, ...args],
    cwd: ROOT,
    stdout: "null",
    stderr: "piped",
    env: { NO_COLOR: "1", ...env },
  }).spawn();
}

Deno.test("deno task serve ends with 2 when the command line is wrong", async () => {
  const { code, stderr } = await launcher(["--port", "x"]).output();
  assertEquals(
    [code, new TextDecoder().decode(stderr)],
    [2, 'octavo: Cannot read --port: expected an integer 0 to 65535, received "x"\n'],
  );
});

Deno.test("deno task serve takes a path from where the user stands, with spaces and commas", async () => {
  const folder = await Deno.makeTempDir({ prefix: "octavo test, " });
  try {
    await Deno.mkdir(join(folder, "my model"));
    for (const { name } of Deno.readDirSync(TINY)) {
      await Deno.copyFile(join(TINY, name), join(folder, "my model", name));
    }
    // The name is a flag's value too, which must stay.
    const server = launcher(["--served-model-name", "my model", "my model", "--port=0"], { INIT_CWD: folder });
    let report = "";
    const reader = server.stderr.pipeThrough(new TextDecoderStream()).getReader();
    while (!report.includes("Try it")) {
      const { value, done } = await reader.read();
      if (done) break;
      report += value;
    }
    server.kill("SIGTERM");
    await reader.cancel();
    assertMatch(report, /serves my model at http:\/\/127\.0\.0\.1:[1-9]/);
    assertEquals((await server.status).code, 0);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
