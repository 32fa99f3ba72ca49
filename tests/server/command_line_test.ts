/** `mod.ts serve` as a process of its own, with the permissions that the documentation names. */
import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { VERSION } from "../../version.ts";

const ROOT = new URL("../../", import.meta.url).pathname;
const TINY = `${ROOT}tests/data/tiny/base`;

function command(args: string[]): Deno.Command {
  const permissions = ["--allow-ffi", "--allow-read", "--allow-env", "--allow-net=127.0.0.1"];
  return new Deno.Command(Deno.execPath(), {
    args: ["run", "--frozen", "--no-prompt", ...permissions, `${ROOT}mod.ts`, ...args],
    stdout: "piped",
    stderr: "piped",
    env: { NO_COLOR: "1" },
  });
}

async function output(args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  const { code, stdout, stderr } = await command(args).output();
  const text = new TextDecoder();
  return { code, stdout: text.decode(stdout), stderr: text.decode(stderr) };
}

Deno.test("octavo --help and --version print and end with 0", async () => {
  const help = await output(["--help"]);
  assertEquals(help.code, 0);
  assertStringIncludes(
    help.stdout,
    "--kv-cache-dtype auto|bfloat16|float16|float32|fp8|fp8_e4m3|fp8_e5m2|fp8_per_token_head|",
  );
  assertEquals(await output(["--version"]), { code: 0, stdout: `${VERSION}\n`, stderr: "" });
});

Deno.test("octavo says in one sentence what is wrong", async () => {
  const cases: [string[], number, RegExp][] = [
    [
      ["serve", "--kv-cache-dtype", "int3"],
      2,
      /^octavo: Cannot read --kv-cache-dtype: expected one of auto, .*"int3"\n$/,
    ],
    [["dance"], 2, /^octavo: Unknown command "dance"; there are: serve, calibrate, compare, eval-kv, inspect\n$/],
    [["serve", TINY, "other"], 2, /^octavo: Expected one MODEL, received also "other"\n$/],
    [["serve", "/no/such.gguf"], 1, /octavo: Cannot find model \/no\/such\.gguf: \/no\/such\.gguf does not exist/],
    [["serve", TINY, "--max-model-len", "100000"], 1, /octavo: max_model_len must be an integer from 2 to 512/],
    [["serve", TINY, "--port", "0", "--kv-cache-memory", "1000"], 1, /too small for one sequence of 512 tokens/],
    [
      ["serve", TINY, "--port", "0", "--device", "cpu", "--quantization", "fp8"],
      1,
      /octavo: --quantization fp8 needs a GPU, but the engine runs on the CPU\n$/,
    ],
    [
      ["serve", "/no/such.gguf", "--load-format", "dummy"],
      1,
      /octavo: Cannot make up model \/no\/such\.gguf: load format dummy needs a folder with config\.json/,
    ],
  ];
  using taken = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const port = `${taken.addr.port}`;
  cases.push([
    ["serve", TINY, "--port", port],
    1,
    /^octavo: Cannot listen on 127\.0\.0\.1:\d+: the port is in use; [^\n]*\n$/,
  ]);
  for (const [args, code, message] of cases) {
    const result = await output(args);
    assertEquals(result.code, code, result.stderr);
    assertMatch(result.stderr, message);
  }
});

Deno.test("octavo serve reports, answers its own curl line, and finishes a stream after SIGTERM", async () => {
  const server = command(["serve", TINY, "--port", "0", "--kv-cache-dtype", "fp8", "--threads", "1"]).spawn();
  const stderr = server.stderr.pipeThrough(new TextDecoderStream()).getReader();
  let report = "";
  while (!report.includes('stream": true')) report += (await stderr.read()).value ?? "";
  assertStringIncludes(
    report,
    "fp8_e4m3 (given by --kv-cache-dtype): 8,192 tokens in 3.0 MiB (bfloat16 would hold 4,096), 16 ",
  );
  const url = report.match(/at (http:\/\/127\.0\.0\.1:\d+)/)![1]!;

  const curl = report.slice(report.indexOf("curl")).trim();
  const answer = await new Deno.Command("bash", { args: ["-c", `${curl} -s`], stdout: "piped" }).output();
  assertMatch(new TextDecoder().decode(answer.stdout), /^data: \{.*"role":"assistant"[\s\S]*data: \[DONE\]\n\n$/);

  const response = await fetch(`${url}/v1/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ prompt: [1, 2, 3], max_tokens: 400, ignore_eos: true, stream: true }),
  });
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
  let stream = (await reader.read()).value ?? "";
  server.kill("SIGTERM");
  for (let part = await reader.read(); !part.done; part = await reader.read()) stream += part.value;
  assertStringIncludes(stream, '"finish_reason":"length"');
  assertStringIncludes(stream, "data: [DONE]");
  await Promise.all([server.stdout.cancel(), stderr.cancel()]);
  assertEquals((await server.status).code, 0);
});
