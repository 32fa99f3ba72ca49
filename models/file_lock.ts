/**
 * One process at a time: a lock on a file, which the system drops when its holder ends.
 *
 * @module
 */

import { dirname } from "node:path";

/** Runs `use` while holding the lock; waits for it first. The file stays. */
export async function withFileLock<T>(path: string, use: () => Promise<T>): Promise<T> {
  await Deno.mkdir(dirname(path), { recursive: true });
  using file = await Deno.open(path, { write: true, create: true });
  await file.lock(true);
  try {
    return await use();
  } finally {
    await file.unlock();
  }
}

/** Size of a file, or null where there is none. */
export async function fileSizeOrNull(path: string): Promise<number | null> {
  try {
    return (await Deno.stat(path)).size;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound || error instanceof Deno.errors.NotADirectory) return null;
    throw error;
  }
}
