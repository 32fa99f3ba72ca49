/**
 * Files that the tests of models/ read.
 *
 * @module
 */

const data = new URL("../data/", import.meta.url);

/** Path of a file in tests/data/. */
export function dataPath(name: string): string {
  return decodeURIComponent(new URL(name, data).pathname);
}

export function readJson<T>(name: string): T {
  return JSON.parse(Deno.readTextFileSync(dataPath(name)));
}

/** Size of SmolLM2-135M-Instruct.Q4_1.gguf, whose header is the fixture. */
const smollm2Bytes = 98_362_432;

/** Unpacks the header of SmolLM2's GGUF file into `folder` and stretches it to the file's size with a hole. */
export async function unpackSmollm2(folder: string): Promise<string> {
  const path = `${folder}/SmolLM2-135M-Instruct.Q4_1.gguf`;
  using packed = await Deno.open(dataPath("smollm2/smollm2_q4_1.gguf_header.gz"));
  using file = await Deno.open(path, { write: true, create: true });
  const unzipped = packed.readable.pipeThrough(new DecompressionStream("gzip"));
  for await (const chunk of unzipped) await file.write(chunk);
  await file.truncate(smollm2Bytes);
  return path;
}

/** Runs `test` with a folder that is removed afterwards. */
export async function withTempFolder(test: (folder: string) => Promise<void> | void): Promise<void> {
  const folder = await Deno.makeTempDir({ prefix: "octavo-models-" });
  try {
    await test(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}
