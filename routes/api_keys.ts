/**
 * The keys that a server accepts, and whose requests they mark: `--api-key-file`.
 *
 * @module
 */

import { z } from "zod";
import type { Tenant } from "../engine/types.ts";

/** A key and the tenant whose share its requests take. */
export interface ApiKey {
  readonly key: string;
  readonly tenant: Tenant;
}

const MIN_WEIGHT = 0.01;
const MAX_WEIGHT = 100;

const apiKeys = z.array(
  z.strictObject({
    name: z.string().min(1).max(128),
    key: z.string().regex(/^\S{1,1024}$/, { error: "expected up to 1024 characters without spaces" }),
    weight: z.number().min(MIN_WEIGHT).max(MAX_WEIGHT).default(1),
  }),
).min(1);

/**
 * Reads keys from JSON: a list of `{"name", "key", "weight"}`. Keys of one name are one tenant; `weight` is 1 if left out.
 *
 * @throws {RangeError} The file cannot be read or does not hold that; the message never has a key.
 */
export function readApiKeys(path: string): ApiKey[] {
  const fail = (reason: string) => new RangeError(`Cannot read the API keys in ${path}: ${reason}`);
  const result = apiKeys.safeParse(readJson(path, fail));
  if (!result.success) {
    const { path: place, message } = result.error.issues[0]!;
    throw fail(`${place.join(".") || "the whole"}: ${message}`);
  }
  const weights = new Map<string, number>();
  const seen = new Set<string>();
  return result.data.map(({ name, key, weight }) => {
    if ((weights.get(name) ?? weight) !== weight) throw fail(`keys of one name need one weight, found two for ${name}`);
    if (seen.has(key)) throw fail(`each key must be there once, found one of ${name} again`);
    weights.set(name, weight);
    seen.add(key);
    return { key, tenant: { name, weight } };
  });
}

function readJson(path: string, fail: (reason: string) => RangeError): unknown {
  try {
    return JSON.parse(Deno.readTextFileSync(path));
  } catch (error) {
    // A parser's message may quote what it found.
    throw fail(error instanceof SyntaxError ? "expected JSON" : (error as Error).message);
  }
}
