/**
 * Where the Hugging Face hub is, where its files are kept, and who asks: from the environment variables that
 * huggingface_hub reads.
 *
 * @module
 */

import { join } from "node:path";

/** Every variable that is read; `--allow-env` must name them. */
const hubVariables = [
  "HF_TOKEN",
  "HF_HOME",
  "HF_HUB_CACHE",
  "HF_ENDPOINT",
  "HF_HUB_OFFLINE",
  "XDG_CACHE_HOME",
  "HOME",
] as const;

export interface HubSettings {
  /** Without a slash at the end. */
  readonly endpoint: string;
  /** Folder of all cached repositories. */
  readonly cacheFolder: string;
  readonly token: string | null;
  /** No network: only what is in the cache. */
  readonly isOffline: boolean;
}

/**
 * @param get Reads an environment variable.
 * @throws {RangeError} When a variable's value makes no sense.
 */
export function hubSettings(
  get: (name: typeof hubVariables[number]) => string | undefined = Deno.env.get,
): HubSettings {
  const value = (name: typeof hubVariables[number]) => get(name) || null;
  const home = value("HF_HOME") ?? join(value("XDG_CACHE_HOME") ?? join(value("HOME") ?? "/", ".cache"), "huggingface");
  const endpoint = (value("HF_ENDPOINT") ?? "https://huggingface.co").replace(/\/+$/, "");
  if (!URL.canParse(endpoint)) throw new RangeError(`HF_ENDPOINT must be a URL, found ${endpoint}`);
  const token = value("HF_TOKEN")?.trim() ?? null;
  if (token !== null && !token.startsWith("hf_")) throw new RangeError("HF_TOKEN must be a token that starts with hf_");
  return {
    endpoint,
    cacheFolder: value("HF_HUB_CACHE") ?? join(home, "hub"),
    token,
    isOffline: ["1", "ON", "YES", "TRUE"].includes((value("HF_HUB_OFFLINE") ?? "").toUpperCase()),
  };
}
