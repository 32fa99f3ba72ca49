/**
 * `deno task build`: builds the native library into `build/<backend>/` when its sources have changed, and writes the
 * `octavo.json` that `ffi/library_search.ts` checks.
 *
 *     deno task build [--backend cpu] [--sanitize] [--force]
 *
 * @module
 */

import { parseArgs } from "@std/cli";
import { ABI_VERSION, BACKENDS, type LibraryManifest, PROJECT_FOLDER, sha256 } from "../ffi/library_search.ts";
import { firstLine, has, PrerequisiteError, runQuietly, toPath } from "./_command.ts";

/** What `build/<name>/octavo.json` holds: the manifest plus what the build was made of. */
interface BuildManifest extends LibraryManifest {
  readonly sources: string;
}

const COMPILER_HINT = "install it with: sudo apt-get install -y g++";

/**
 * Builds one backend unless it is up to date.
 *
 * @returns Whether anything was built.
 * @throws {PrerequisiteError} A tool is missing or too old.
 */
export async function build(options: { backend: string; sanitize?: boolean; force?: boolean }): Promise<boolean> {
  const { backend, sanitize = false, force = false } = options;
  if (!(BACKENDS as readonly string[]).includes(backend)) {
    throw new PrerequisiteError(`Cannot build backend "${backend}": there are ${BACKENDS.join(", ")}`);
  }
  const folder = new URL(`build/${sanitize ? "sanitize" : backend}/`, PROJECT_FOLDER);
  const library = `liboctavo-${backend}.so`;
  const sources = await hashSources(`${backend} sanitize=${sanitize}`);
  if (!force && await isUpToDate(folder, sources)) return false;
  await checkTools();
  console.error(`Building ${library}${sanitize ? " with sanitizers" : ""} (a minute or two, once) ...`);
  const start = performance.now();
  const cmakeFolder = new URL("cmake/", folder);
  await Deno.mkdir(cmakeFolder, { recursive: true });
  const generator = await has("ninja") ? ["-G", "Ninja"] : [];
  const source = toPath(new URL("cuda/", PROJECT_FOLDER));
  const flags = [`-DOCTAVO_SANITIZE=${sanitize ? "ON" : "OFF"}`];
  await runQuietly("cmake", ["-S", source, "-B", toPath(cmakeFolder), ...generator, ...flags]);
  await runQuietly("cmake", ["--build", toPath(cmakeFolder), "-j", `${navigator.hardwareConcurrency}`]);
  await install(new URL(library, cmakeFolder), folder, { file: library, sources });
  console.error(`Built ${library} in ${((performance.now() - start) / 1000).toFixed(0)} s`);
  return true;
}

/** One hash over names and contents of all native sources and the build's settings. */
async function hashSources(settings: string): Promise<string> {
  const root = new URL("cuda/", PROJECT_FOLDER);
  const files = await listFiles(root, "");
  const parts = await Promise.all(
    files.sort().map(async (name) => `${name} ${await sha256(await Deno.readFile(new URL(name, root)))}`),
  );
  return await sha256(new TextEncoder().encode([settings, ...parts].join("\n")));
}

async function listFiles(folder: URL, prefix: string): Promise<string[]> {
  const files: string[] = [];
  for await (const entry of Deno.readDir(folder)) {
    const name = prefix + entry.name;
    if (entry.isDirectory) files.push(...await listFiles(new URL(`${entry.name}/`, folder), `${name}/`));
    else files.push(name);
  }
  return files;
}

async function isUpToDate(folder: URL, sources: string): Promise<boolean> {
  try {
    const manifest = JSON.parse(await Deno.readTextFile(new URL("octavo.json", folder))) as BuildManifest;
    await Deno.stat(new URL(manifest.file, folder));
    return manifest.sources === sources;
  } catch {
    return false; // never built, or a build was cut short
  }
}

/** Moves the library into place by rename: a running server keeps the file it has mapped. */
async function install(built: URL, folder: URL, about: { file: string; sources: string }): Promise<void> {
  const manifest: BuildManifest = {
    file: about.file,
    abi_version: ABI_VERSION,
    sha256: await sha256(await Deno.readFile(built)),
    sources: about.sources,
  };
  const next = new URL(`${about.file}.${Deno.pid}`, folder);
  const nextManifest = new URL(`octavo.json.${Deno.pid}`, folder);
  await Deno.copyFile(built, next);
  await Deno.writeTextFile(nextManifest, JSON.stringify(manifest, null, 2) + "\n");
  await Deno.rename(next, new URL(about.file, folder));
  await Deno.rename(nextManifest, new URL("octavo.json", folder));
}

async function checkTools(): Promise<void> {
  if (!await has("cmake")) {
    throw new PrerequisiteError(
      "CMake is needed to build the native library; install it with: sudo apt-get install -y cmake",
    );
  }
  const version = await firstLine("g++", ["-dumpversion"]);
  if (version === null) {
    throw new PrerequisiteError(`A C++20 compiler (g++ 12 or newer) is needed; ${COMPILER_HINT}`);
  }
  if (Number.parseInt(version) < 12) {
    throw new PrerequisiteError(`g++ 12 or newer is needed, found ${version}; ${COMPILER_HINT}-12`);
  }
}

if (import.meta.main) {
  const flags = parseArgs(Deno.args, {
    string: ["backend"],
    boolean: ["sanitize", "force"],
    default: { backend: "cpu" },
  });
  try {
    if (!await build(flags)) console.error("The native library is up to date");
  } catch (error) {
    console.error((error as Error).message);
    Deno.exit(1);
  }
}
