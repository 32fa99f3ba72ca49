/**
 * Octavo's own cache on disk.
 *
 * @module
 */

import { join } from "node:path";

/** Every variable that is read; `--allow-env` must name them. */
const cacheVariables = ["OCTAVO_CACHE", "XDG_CACHE_HOME", "HOME"] as const;

/**
 * `OCTAVO_CACHE`, else `$XDG_CACHE_HOME/octavo`, else `~/.cache/octavo`.
 *
 * @param get Reads an environment variable.
 * @throws {RangeError} When none of the three is set.
 */
export function cacheFolder(get: (name: typeof cacheVariables[number]) => string | undefined = Deno.env.get): string {
  const own = get("OCTAVO_CACHE");
  if (own) return own;
  const shared = get("XDG_CACHE_HOME");
  if (shared) return join(shared, "octavo");
  const home = get("HOME");
  if (home) return join(home, ".cache", "octavo");
  throw new RangeError("Cannot place the cache: OCTAVO_CACHE, XDG_CACHE_HOME or HOME must be set");
}
