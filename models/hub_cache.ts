/**
 * The hub's files on disk, in the layout that huggingface_hub and all that builds on it share:
 *
 *     models--org--name/blobs/<digest>                the content
 *     models--org--name/snapshots/<commit>/<file>     a link to it
 *     models--org--name/refs/<revision>               the commit a branch or tag pointed to
 *
 * @module
 */

import { dirname, join } from "node:path";
import { download } from "./download.ts";
import { fileSizeOrNull, withFileLock } from "./file_lock.ts";

/** A file of a repository at one commit. */
export interface HubFile {
  readonly path: string;
  readonly sizeBytes: number;
  readonly digest: { readonly kind: "sha256" | "git"; readonly hex: string };
}

const commitHash = /^[0-9a-f]{40}$/;

/** One repository's part of the cache. */
export class HubCache {
  readonly #cacheFolder: string;
  readonly #repoFolder: string;

  /** @param repo "org/name". */
  constructor(cacheFolder: string, repo: string) {
    this.#cacheFolder = cacheFolder;
    this.#repoFolder = `models--${repo.replaceAll("/", "--")}`;
  }

  #path(...parts: readonly string[]): string {
    return join(this.#cacheFolder, this.#repoFolder, ...parts);
  }

  snapshotFolder(commit: string): string {
    return this.#path("snapshots", commit);
  }

  /** The commit that a revision pointed to when last asked, or null. */
  async commitOf(revision: string): Promise<string | null> {
    if (commitHash.test(revision)) return revision;
    try {
      const commit = (await Deno.readTextFile(this.#path("refs", revision))).trim();
      return commitHash.test(commit) ? commit : null;
    } catch (error) {
      if (error instanceof Deno.errors.NotFound || error instanceof Deno.errors.IsADirectory) return null;
      throw error;
    }
  }

  async rememberCommit(revision: string, commit: string): Promise<void> {
    if (revision === commit) return;
    const path = this.#path("refs", revision);
    await Deno.mkdir(dirname(path), { recursive: true });
    await Deno.writeTextFile(path, commit);
  }

  /** Files of a commit that are here; empty where there are none. */
  async filesOf(commit: string): Promise<string[]> {
    try {
      return (await Array.fromAsync(Deno.readDir(this.snapshotFolder(commit)), (entry) => entry.name)).sort();
    } catch (error) {
      if (error instanceof Deno.errors.NotFound) return [];
      throw error;
    }
  }

  /** Downloads a file unless it is here. Returns its path in the snapshot. */
  async put(
    commit: string,
    file: HubFile,
    from: { url: string; token: string | null; onBytes: (doneBytes: number) => void },
  ): Promise<string> {
    const linkPath = join(this.snapshotFolder(commit), file.path);
    if (await fileSizeOrNull(linkPath) === file.sizeBytes) return linkPath;
    const blobPath = this.#path("blobs", file.digest.hex);
    const lockPath = join(this.#cacheFolder, ".locks", this.#repoFolder, `${file.digest.hex}.lock`);
    await withFileLock(lockPath, async () => {
      await Deno.mkdir(dirname(blobPath), { recursive: true });
      await Deno.mkdir(dirname(linkPath), { recursive: true });
      if (await fileSizeOrNull(blobPath) !== file.sizeBytes) {
        await download({ ...from, path: blobPath, sizeBytes: file.sizeBytes, digest: file.digest });
      }
      await link(blobPath, linkPath, join("..", "..", "blobs", file.digest.hex));
    });
    return linkPath;
  }
}

/** A symbolic link as huggingface_hub makes it; a hard link where permissions are scoped to folders. */
async function link(blobPath: string, linkPath: string, relativeBlobPath: string): Promise<void> {
  try {
    await Deno.remove(linkPath);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
  try {
    await Deno.symlink(relativeBlobPath, linkPath);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotCapable)) throw error;
    await Deno.link(blobPath, linkPath);
  }
}
