/**
 * Models from the Hugging Face hub, kept in its shared cache.
 *
 * @module
 */

import { HubApiError, listFiles, modelInfo } from "@huggingface/hub";
import { join } from "node:path";
import { DownloadError } from "./download.ts";
import { HubCache, type HubFile } from "./hub_cache.ts";
import { HubError } from "./hub_error.ts";
import { chooseFiles } from "./hub_files.ts";
import { type HubSettings, hubSettings } from "./hub_settings.ts";
import { safetensorsIndexFile, shardsOf } from "./hf_checkpoint.ts";
import { readRecord } from "./json_file.ts";
import type { ProgressListener } from "./progress.ts";

/** What a source names: `org/name`, `org/name:Q4_K_M`, `org/name@revision`, or all three. */
export interface HubSource {
  readonly repo: string;
  readonly quantization: string | null;
  /** A branch, tag or commit. */
  readonly revision: string;
}

const sourcePattern = /^([A-Za-z0-9][\w.-]*\/[A-Za-z0-9][\w.-]*)(?::([A-Za-z0-9][\w.-]*))?(?:@([A-Za-z0-9][\w./-]*))?$/;

/** Null when the text cannot name a repository. */
export function parseHubSource(source: string): HubSource | null {
  const [, repo, quantization = null, revision = "main"] = sourcePattern.exec(source) ?? [];
  if (repo === undefined || revision.split("/").some((part) => part === "" || part === "." || part === "..")) {
    return null;
  }
  return { repo, quantization, revision };
}

export interface HubOptions {
  readonly onProgress?: ProgressListener;
  /** From the environment by default. */
  readonly settings?: HubSettings;
}

/**
 * Fetches what is missing of a model and returns the path of its folder or GGUF file in the cache.
 *
 * @throws {HubError} When it cannot be had.
 */
export async function fetchFromHub(source: HubSource, options: HubOptions = {}): Promise<string> {
  const settings = options.settings ?? hubSettings();
  const cache = new HubCache(settings.cacheFolder, source.repo);
  if (settings.isOffline) {
    return await cachedModel(source, cache) ?? notCached(source, settings, "HF_HUB_OFFLINE is set");
  }
  try {
    return await fetchModel(source, settings, cache, options.onProgress ?? (() => {}));
  } catch (error) {
    // fetch() throws a TypeError: the hub did not even say what the revision is now.
    const cached = error instanceof TypeError ? await cachedModel(source, cache) : null;
    if (cached !== null) return cached;
    throw explained(error, source, settings);
  }
}

async function fetchModel(
  source: HubSource,
  settings: HubSettings,
  cache: HubCache,
  onProgress: ProgressListener,
): Promise<string> {
  const { repo, revision } = source;
  const { commit, files } = await listRepository(source, settings);
  const choice = chooseFiles(repo, [...files.keys()], source.quantization);
  const folder = cache.snapshotFolder(commit);
  let [doneBytes, totalBytes] = [0, 0];
  const fetchAll = async (names: readonly string[]) => {
    const wanted = names.map((name) => files.get(name) ?? missingFile(source, name));
    for (const file of wanted) totalBytes += file.sizeBytes;
    for (const file of wanted) {
      const url = `${settings.endpoint}/${repo}/resolve/${commit}/${encodeURIComponent(file.path)}`;
      const onBytes = (bytes: number) => onProgress({ label: repo, doneBytes: doneBytes + bytes, totalBytes });
      await cache.put(commit, file, { url, token: settings.token, onBytes });
      doneBytes += file.sizeBytes;
    }
  };
  if (choice.kind === "gguf") await fetchAll([choice.file]);
  else {
    await fetchAll(choice.files);
    if (choice.files.includes(safetensorsIndexFile)) {
      const indexPath = join(folder, safetensorsIndexFile);
      await fetchAll([...new Set(shardsOf(indexPath, readRecord(indexPath)).values())].sort());
    }
  }
  await cache.rememberCommit(revision, commit);
  return choice.kind === "gguf" ? join(folder, choice.file) : folder;
}

/** The commit of a revision and the files at its root. */
async function listRepository({ repo, revision }: HubSource, { endpoint, token }: HubSettings) {
  const access = { hubUrl: endpoint, ...(token === null ? {} : { accessToken: token }) };
  const { sha: commit } = await modelInfo({ name: repo, revision, additionalFields: ["sha"], ...access });
  if (!/^[0-9a-f]{40}$/.test(commit)) throw new HubError(`${endpoint} gave no commit for ${repo}@${revision}`);
  const files = new Map<string, HubFile>();
  for await (const entry of listFiles({ repo: { type: "model", name: repo }, revision: commit, ...access })) {
    const digest: HubFile["digest"] = entry.lfs === undefined
      ? { kind: "git", hex: entry.oid ?? "" }
      : { kind: "sha256", hex: entry.lfs.oid };
    // Both become names of files here, so nothing but a plain name and a digest will do.
    const isPlain = /^(?:[0-9a-f]{40}|[0-9a-f]{64})$/.test(digest.hex) && /^\w[\w .+-]*$/.test(entry.path);
    if (entry.type === "file" && isPlain) files.set(entry.path, { path: entry.path, sizeBytes: entry.size, digest });
  }
  return { commit, files };
}

function missingFile({ repo }: HubSource, name: string): never {
  throw new HubError(`Cannot use ${repo} from the Hugging Face hub: ${name} is missing`);
}

/** What the cache holds of a source, or null. */
async function cachedModel(source: HubSource, cache: HubCache): Promise<string | null> {
  const commit = await cache.commitOf(source.revision);
  if (commit === null) return null;
  const names = await cache.filesOf(commit);
  if (!names.some((name) => /\.(?:safetensors|gguf)$/.test(name))) return null;
  const folder = cache.snapshotFolder(commit);
  const choice = chooseFiles(source.repo, names, source.quantization);
  return choice.kind === "gguf" ? join(folder, choice.file) : folder;
}

function notCached({ repo, revision }: HubSource, { cacheFolder }: HubSettings, why: string): never {
  throw new HubError(`Cannot find ${repo}@${revision} in ${cacheFolder}, and ${why}`);
}

/** One sentence for whatever went wrong. */
function explained(error: unknown, { repo, revision }: HubSource, { endpoint, token }: HubSettings): unknown {
  const status = error instanceof HubApiError ? error.statusCode : error instanceof DownloadError ? error.status : null;
  const start = `Cannot fetch ${repo}@${revision} from ${endpoint}`;
  if (status === 401 || status === 403) {
    const what = `it is gated, private or not there (HTTP status ${status})`;
    const remedy = token === null
      ? `accept its terms at ${endpoint}/${repo} if it is gated, and set HF_TOKEN to a token that may read it`
      : `the token in HF_TOKEN may not read it, or its terms at ${endpoint}/${repo} are not accepted`;
    return new HubError(`${start}: ${what}; ${remedy}`, { cause: error });
  }
  if (status === 404) return new HubError(`${start}: there is no such repository, revision or file (HTTP status 404)`);
  if (error instanceof HubApiError) return new HubError(`${start}: HTTP status ${status}`, { cause: error });
  if (error instanceof DownloadError) return new HubError(`${start}: ${error.message}`, { cause: error });
  if (error instanceof TypeError) {
    return new HubError(`${start}: the hub cannot be reached (${error.message})`, { cause: error });
  }
  if (error instanceof SyntaxError) return new HubError(`${start}: the answer is no JSON`, { cause: error });
  return error;
}
