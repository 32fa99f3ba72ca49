/** `scripts/serve.ts`, what `deno task serve` runs. */
import { assertEquals, assertMatch } from "@std/assert";
import { join } from "node:path";
import { startHubServer } from "../models/_hub_server.ts";

const ROOT = new URL("../../", import.meta.url).pathname;
const TINY = `${ROOT}tests/data/tiny/base`;

function launcher(args: string[], env: Record<string, string> = {}, project = ROOT): Deno.ChildProcess {
  const permissions = ["--allow-env", "--allow-read", "--allow-write", "--allow-net", "--allow-run"];
  return new Deno.Command(Deno.execPath(), {
    args: ["run", "--frozen", "--no-prompt", ...permissions, join(project, "scripts/serve.ts"), ...args],
    cwd: project,
    stdout: "null",
    stderr: "piped",
    env: { NO_COLOR: "1", ...env },
  }).spawn();
}

/** What a server prints before it listens, after which it is ended. */
async function reportOf(args: string[], env: Record<string, string>, project = ROOT): Promise<string> {
  const server = launcher(args, env, project);
  let report = "";
  const reader = server.stderr.pipeThrough(new TextDecoderStream()).getReader();
  while (!report.includes("Try it")) {
    const { value, done } = await reader.read();
    if (done) throw new Error(`No report but: ${report}`);
    report += value;
  }
  server.kill("SIGTERM");
  await reader.cancel();
  assertEquals((await server.status).code, 0, report);
  return report;
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
    const args = ["--served-model-name", "my model", "my model", "--port=0"];
    assertMatch(await reportOf(args, { INIT_CWD: folder }), /serves my model at http:\/\/127\.0\.0\.1:[1-9]/);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("deno task serve fetches a model from the hub once and serves it by the name it was asked for", async () => {
  const cache = await Deno.makeTempDir();
  try {
    const files = Object.fromEntries(
      Array.from(Deno.readDirSync(TINY), ({ name }) => [name, Deno.readFileSync(join(TINY, name))]),
    );
    await using hub = startHubServer({ "org/tiny": { files, revisions: { main: "a".repeat(40) } } });
    const env = { HF_ENDPOINT: hub.endpoint, HF_HUB_CACHE: cache };
    assertMatch(await reportOf(["org/tiny", "--port=0"], env), /serves org\/tiny at/);
    const numRequests = hub.requests.length;
    assertMatch(await reportOf(["org/tiny", "--port=0"], { ...env, HF_HUB_OFFLINE: "1" }), /serves org\/tiny at/);
    assertEquals(hub.requests.length, numRequests);
  } finally {
    await Deno.remove(cache, { recursive: true });
  }
});

Deno.test("deno task serve builds nothing when OCTAVO_LIB names the library", async () => {
  const project = await Deno.makeTempDir();
  try {
    // A project that was never built, on a machine without a compiler.
    const names = Array.from(Deno.readDirSync(ROOT), ({ name }) => name).filter((name) => !/^(\.|build$)/.test(name));
    await new Deno.Command("cp", { args: ["-r", ...names.map((name) => join(ROOT, name)), project] }).output();
    const library = Deno.env.get("OCTAVO_LIB") ?? `${ROOT}build/cpu/liboctavo-cpu.so`;
    const env = { OCTAVO_LIB: library, PATH: "/nowhere" };
    const report = await reportOf([`${project}/tests/data/tiny/base`, "--port=0"], env, project);
    assertMatch(report, /^(?!.*Building)[\s\S]*serves base at/);
  } finally {
    await Deno.remove(project, { recursive: true });
  }
});

Deno.test("deno task serve may read the files that options name, from where the user stands", async () => {
  const folder = await Deno.makeTempDir({ prefix: "octavo test, " });
  try {
    await Deno.writeTextFile(join(folder, "keys.json"), JSON.stringify([{ name: "a", key: "k" }]));
    await Deno.writeTextFile(join(folder, "chat.jinja"), "{{ messages[0].content }}");
    const files = ["--api-key-file=keys.json", "--chat-template=chat.jinja"];
    const report = await reportOf([TINY, "--port=0", ...files], { INIT_CWD: folder });
    assertMatch(report, /authorization/i);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
