/**
 * Checkpoints that LLM Compressor wrote: the weights of tiny/base and what it put beside them.
 *
 * @module
 */

import { openModel } from "../../models/open_model.ts";
import { parseSafetensors } from "../../models/safetensors.ts";
import type { ModelFiles } from "../../models/types.ts";
import { dataPath } from "./_fixtures.ts";

/** Entries of a safetensors file to write, by name. */
export type Tensors = Record<string, { dtype: "BF16" | "F16" | "F32" | "F8_E4M3"; shape: number[]; bytes: Uint8Array }>;

/** Puts tiny/base, `config.json` of tiny/`name` and more tensors into a folder, in two shards, and opens it. */
export function openKvCheckpoint(
  folder: string,
  name: string,
  change: { tensors?: Tensors; config?: Record<string, unknown> } = {},
): Promise<ModelFiles> {
  for (const file of ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"]) {
    Deno.copyFileSync(dataPath(`tiny/base/${file}`), `${folder}/${file}`);
  }
  const config = JSON.parse(Deno.readTextFileSync(dataPath(`tiny/${name}/config.json`)));
  Deno.writeTextFileSync(`${folder}/config.json`, JSON.stringify({ ...config, ...change.config }));
  const [weights, scales] = ["weights.safetensors", "scales.safetensors"];
  Deno.copyFileSync(dataPath("tiny/base/model.safetensors"), `${folder}/${weights}`);
  if (change.tensors === undefined) Deno.copyFileSync(dataPath(`tiny/${name}/${scales}`), `${folder}/${scales}`);
  else writeSafetensors(`${folder}/${scales}`, change.tensors);
  const weight_map: Record<string, string> = {};
  for (const file of [weights, scales]) {
    for (const tensor of tensorsOf(`${folder}/${file}`)) weight_map[tensor] = file;
  }
  Deno.writeTextFileSync(`${folder}/model.safetensors.index.json`, JSON.stringify({ weight_map }));
  return openModel(folder);
}

function tensorsOf(path: string): string[] {
  const bytes = Deno.readFileSync(path);
  const read = (offset: number, into: Uint8Array) => into.set(bytes.subarray(offset, offset + into.length));
  return parseSafetensors({ path, sizeBytes: bytes.length, read }).map(({ name }) => name);
}

export function writeSafetensors(path: string, tensors: Tensors): void {
  let offset = 0;
  const header = Object.fromEntries(
    Object.entries(tensors).map(([name, { dtype, shape, bytes }]) => {
      const data_offsets = [offset, offset += bytes.length];
      return [name, { dtype, shape, data_offsets }];
    }),
  );
  const text = new TextEncoder().encode(JSON.stringify(header));
  const start = new Uint8Array(8);
  new DataView(start.buffer).setBigUint64(0, BigInt(text.length), true);
  const parts = [start, text, ...Object.values(tensors).map(({ bytes }) => bytes)];
  Deno.writeFileSync(path, new Uint8Array(parts.flatMap((part) => [...part])));
}

/** An f32 tensor. */
export function f32(values: number[], shape = [values.length]): Tensors[string] {
  return { dtype: "F32", shape, bytes: new Uint8Array(Float32Array.from(values).buffer) };
}
