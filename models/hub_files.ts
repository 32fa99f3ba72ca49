/**
 * Which of a repository's files a model needs.
 *
 * @module
 */

import { safetensorsFile, safetensorsIndexFile } from "./hf_checkpoint.ts";
import { HubError } from "./hub_error.ts";

const settingsFiles = [
  "config.json",
  "generation_config.json",
  "tokenizer.json",
  "tokenizer_config.json",
  "chat_template.jinja",
  "chat_template.json",
];

/** What to fetch: one GGUF file, or a folder's files without the shards that its index names. */
export type HubChoice =
  | { readonly kind: "gguf"; readonly file: string }
  | { readonly kind: "folder"; readonly files: readonly string[] };

/**
 * @param names The repository's files.
 * @param quantization Part of a GGUF file's name, for example "Q4_K_M"; null when none is asked for.
 * @throws {HubError} When there is no model, or more than one.
 */
export function chooseFiles(repo: string, names: readonly string[], quantization: string | null): HubChoice {
  const weights = [safetensorsIndexFile, safetensorsFile].find((name) => names.includes(name));
  if (quantization === null && weights !== undefined && names.includes("config.json")) {
    return { kind: "folder", files: [...settingsFiles.filter((name) => names.includes(name)), weights] };
  }
  const all = names.filter((name) => /^[^/]+\.gguf$/i.test(name) && !/^mmproj/i.test(name));
  if (all.length === 0) {
    const missing = quantization === null
      ? `no ${safetensorsFile} with config.json and no .gguf file`
      : "no .gguf file";
    throw new HubError(`Cannot use ${repo} from the Hugging Face hub: it has ${missing}`);
  }
  const fitting = all.filter((name) => quantization === null || hasQuantization(name, quantization));
  const [file] = fitting;
  if (file !== undefined && fitting.length === 1) return { kind: "gguf", file };
  const which = fitting.length === 0 ? `no .gguf file is named ${quantization}` : "it has more than one .gguf file";
  const hint = `name one as ${repo}:QUANTIZATION`;
  throw new HubError(
    `Cannot choose a file of ${repo} from the Hugging Face hub: ${which}; ${hint}, from ${all.join(", ")}`,
  );
}

function hasQuantization(name: string, quantization: string): boolean {
  const stem = name.slice(0, -".gguf".length).toLowerCase();
  const wanted = quantization.toLowerCase();
  return stem === wanted || stem.endsWith(`-${wanted}`) || stem.endsWith(`.${wanted}`);
}
