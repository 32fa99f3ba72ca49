/**
 * Makes a test fixture from a GGUF file: its header (metadata, vocabulary, tensor table) without the tensors' data,
 * gzipped. Tests stretch it back to the file's size with a hole.
 *
 * Usage: deno run --allow-read --allow-write scripts/make_gguf_fixture.ts MODEL.gguf OUT.gguf_header.gz
 *
 * @module
 */

import { readGguf } from "../models/gguf.ts";

const [modelPath, outPath] = Deno.args;
if (modelPath === undefined || outPath === undefined) throw new TypeError("Give a GGUF file and the fixture to write");
const { tensors } = readGguf(modelPath);
const headerBytes = Math.min(...tensors.map((tensor) => tensor.offsetBytes));
const header = new Uint8Array(headerBytes);
using model = await Deno.open(modelPath);
for (let filled = 0; filled < headerBytes;) {
  const count = await model.read(header.subarray(filled));
  if (count === null) throw new RangeError(`${modelPath} ended after ${filled} bytes`);
  filled += count;
}
const gzip = new Blob([header]).stream().pipeThrough(new CompressionStream("gzip"));
await Deno.writeFile(outPath, gzip);
console.log(`${outPath}: ${headerBytes} bytes of header; the file has ${(await Deno.stat(modelPath)).size}`);
