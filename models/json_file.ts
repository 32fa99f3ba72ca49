/**
 * JSON files of a model's folder.
 *
 * @module
 */

import { ModelFileError } from "./errors.ts";
import { isRecord } from "./fields.ts";

/** The largest tokenizer.json known has 34 MB. */
const maxBytes = 256 * 2 ** 20;

/** Content of a text file, or null where there is none. */
export function readTextOrNull(path: string): string | null {
  try {
    const { size } = Deno.statSync(path);
    if (size > maxBytes) throw new ModelFileError(path, "the file", `must have at most ${maxBytes} bytes`, size);
    return Deno.readTextFileSync(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return null;
    throw error;
  }
}

/** A JSON object, or null where there is no such file. */
export function readRecordOrNull(path: string): Record<string, unknown> | null {
  const text = readTextOrNull(path);
  if (text === null) return null;
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new ModelFileError(path, "the file", `must be valid JSON: ${reason}`);
  }
  if (!isRecord(value)) throw new ModelFileError(path, "the file", "must be a JSON object", value);
  return value;
}

/** A JSON object that must be there. */
export function readRecord(path: string): Record<string, unknown> {
  const record = readRecordOrNull(path);
  if (record === null) throw new ModelFileError(path, "the file", "must be there");
  return record;
}
