/** `mod.ts serve` as a process of its own whose device is lost in the middle of a stream. */
import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { openDevice } from "../../ffi/library.ts";
import { findLibrary } from "../../ffi/library_search.ts";
import { findCudaTools } from "../../scripts/_cuda.ts";

const ROOT = new URL("../../", import.meta.url).pathname;
const TINY = `${ROOT}tests/data/tiny/base`;
/** Long before the stream below is over. */
const FAULT_AT_STEP = 20;
const STREAM = { prompt: [1, 2, 3], max_tokens: 400, ignore_eos: true, stream: true };

interface Case {
  readonly backend: "cpu" | "cuda";
  readonly compiler: () => Promise<readonly string[]>;
  /** What the log says. */
  readonly failure: RegExp;
  readonly flags: readonly string[];
}

const CASES: readonly Case[] = [
  {
    backend: "cpu",
    compiler: () => Promise.resolve(["g++", "-std=c++20", "-fPIC", "-Wall", "-Wextra", "-Werror"]),
    failure: /The engine failed: the device was lost/,
    flags: ["--threads=1"],
  },
  {
    backend: "cuda",
    compiler: async () => [
      `${await findCudaTools()}nvcc`,
      "-x",
      "cu",
      "-std=c++20",
      "-Xcompiler",
      "-fPIC",
      "-Xlinker",
      "--no-as-needed",
    ],
    failure: /The engine failed: [^"]*illegal memory access/,
    flags: ["--load-format=dummy", "--kv-cache-memory=64MiB"],
  },
];

/** Links `_faulty_library.cpp` with the backend's library. */
async function buildFaultyLibrary(folder: string, { backend, compiler }: Case): Promise<string> {
  const path = (await findLibrary(backend)).path!;
  const [command = "", ...flags] = await compiler();
  const faulty = `${folder}/liboctavo-faulty.so`;
  // The library is the linker's word: nvcc would compile it.
  const link = ["--no-as-needed", "-rpath", path.slice(0, path.lastIndexOf("/")), path];
  const { stderr } = await new Deno.Command(command, {
    args: [
      ...[...flags, "-I", `${ROOT}cuda/include`, "-shared", `${ROOT}tests/server/_faulty_library.cpp`, "-o", faulty],
      ...link.flatMap((argument) => ["-Xlinker", argument]),
    ],
  }).output();
  assertEquals(new TextDecoder().decode(stderr), "");
  return faulty;
}

/** The tiny model with heads that GPUs have kernels for. */
async function writeModel(folder: string): Promise<string> {
  for (const name of ["tokenizer.json", "tokenizer_config.json"]) {
    await Deno.copyFile(`${TINY}/${name}`, `${folder}/${name}`);
  }
  const config = JSON.parse(await Deno.readTextFile(`${TINY}/config.json`));
  await Deno.writeTextFile(`${folder}/config.json`, JSON.stringify({ ...config, head_dim: 64 }));
  return folder;
}

/** Reads until the text has come. */
async function readUntil(reader: ReadableStreamDefaultReader<string>, text: string): Promise<string> {
  let read = "";
  while (!read.includes(text)) {
    const { value, done } = await reader.read();
    if (done) throw new Error(`Expected "${text}", received ${read}`);
    read += value;
  }
  return read;
}

async function checkFailure(folder: string, one: Case): Promise<void> {
  const library = await buildFaultyLibrary(folder, one);
  const model = one.backend === "cpu" ? TINY : await writeModel(folder);
  const server = new Deno.Command(Deno.execPath(), {
    args: ["run", "--frozen", "-A", `${ROOT}mod.ts`, "serve", model, "--port=0", ...one.flags],
    stdout: "null",
    stderr: "piped",
    env: { NO_COLOR: "1", OCTAVO_LIB: library, FAULT_AT_STEP: `${FAULT_AT_STEP}` },
  }).spawn();
  const stderr = server.stderr.pipeThrough(new TextDecoderStream()).getReader();
  const report = await readUntil(stderr, 'stream": true');
  const url = report.match(/at (http:\/\/127\.0\.0\.1:\d+)/)![1]!;
  const post = (body: unknown) =>
    fetch(`${url}/v1/completions`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
    });
  const [streamed, whole] = await Promise.all([
    post(STREAM).then((response) => response.text()),
    post({ ...STREAM, stream: false }),
  ]);
  const events = streamed.trim().split("\n\n");
  assertMatch(events.at(-1)!, /^data: \{"error":\{/);
  assertStringIncludes(events.at(-1)!, '"code":"engine_unavailable"');
  assertEquals(whole.status, 503);
  assertEquals((await whole.json()).error.code, "engine_unavailable");

  for (const path of ["/health", "/health/ready"]) {
    const health = await fetch(`${url}${path}`);
    assertEquals(health.status, 503, path);
    await health.body?.cancel();
  }
  const late = await post(STREAM);
  assertEquals(late.status, 503);
  await late.body?.cancel();

  const line = await readUntil(stderr, "\n");
  assertMatch(line, one.failure);
  assertStringIncludes(line, "Every request has ended with an error; the server ends in 2 s");
  assertEquals((await server.status).code, 1);
  await stderr.cancel();
}

for (const one of CASES) {
  const isThere = await openDevice(one.backend).then(({ library: opened }) => {
    using library = opened;
    return library.deviceInfo().backend === one.backend;
  }, () => false);
  Deno.test({
    name:
      `octavo serve ends every request with an error, turns unready and exits when the ${one.backend} device is lost` +
      (isThere ? "" : " (skipped: there is none)"),
    ignore: !isThere,
    async fn() {
      const folder = await Deno.makeTempDir({ prefix: "octavo-" });
      try {
        await checkFailure(folder, one);
      } finally {
        await Deno.remove(folder, { recursive: true });
      }
    },
  });
}
