/**
 * Sampling defaults from generation_config.json. As in vLLM the values count whatever `do_sample` says.
 *
 * @module
 */

import type { Fields, Range } from "./fields.ts";
import type { GenerationDefaults } from "./types.ts";

const ranges = {
  temperature: ["temperature", { min: 0, max: 100 }],
  topP: ["top_p", { min: Number.MIN_VALUE, max: 1 }],
  topK: ["top_k", { min: 0, max: 2 ** 31 - 1 }],
  minP: ["min_p", { min: 0, max: 1 }],
  repetitionPenalty: ["repetition_penalty", { min: 0.01, max: 100 }],
} as const satisfies Record<keyof GenerationDefaults, readonly [string, Range]>;

/**
 * @throws {ModelFileError} When a value is out of its range.
 */
export function generationDefaults(fields: Fields): GenerationDefaults {
  const defaults: Record<string, number> = {};
  for (const [name, [key, range]] of Object.entries(ranges)) {
    const value = name === "topK" ? fields.integerOr(key, null, range) : fields.numberOr(key, null, range);
    if (value !== null) defaults[name] = value;
  }
  return defaults;
}
