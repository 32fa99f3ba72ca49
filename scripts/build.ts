/**
 * `deno task build`: builds the native library into `build/<backend>/` when its sources have changed, and writes the
 * `octavo.json` that `ffi/library_search.ts` checks.
 *
 *     deno task build [--backend cpu] [--sanitize] [--force]
 *     deno task build --backend cuda [--arch sm_90a] [--jobs 2] [--force] [--bench]
 *
 * `--arch` builds for one kind of card only, which is quick; without it, for all (`_cuda.ts`). `--bench` also builds
 * `build/cuda/gpu_attention` and `build/cuda/gpu_matmul` from `bench/`.
 *
 * @module
 */

import { parseArgs } from "@std/cli";
import { ABI_VERSION, BACKENDS, type LibraryManifest, PROJECT_FOLDER, sha256 } from "../ffi/library_search.ts";
import { withFileLock } from "../models/file_lock.ts";
import { firstLine, has, PrerequisiteError, runQuietly, toPath } from "./_command.ts";
import { compileCuda, compileCudaBenches, CUDA_ARCHS } from "./_cuda.ts";

/** What `build/<name>/octavo.json` holds: the manifest plus what the build was made of. */
interface BuildManifest extends LibraryManifest {
  readonly sources: string;
}

/** What to build. */
export interface BuildOptions {
  readonly backend: string;
  readonly sanitize?: boolean;
  readonly force?: boolean;
  /** CUDA: the one target to build for. */
  readonly arch?: string;
  /** CUDA: compilers at a time; each takes about 1 GB. */
  readonly jobs?: number;
  /** CUDA: the kernels' benches too. */
  readonly bench?: boolean;
}

const COMPILER_HINT = "install it with: sudo apt-get install -y g++";

/**
 * Builds one backend unless it is up to date.
 *
 * @returns Whether anything was built.
 * @throws {PrerequisiteError} A tool is missing or too old.
 */
export async function build(options: BuildOptions): Promise<boolean> {
  const { backend, sanitize = false, force = false } = options;
  if (!(BACKENDS as readonly string[]).includes(backend)) {
    throw new PrerequisiteError(`Cannot build backend "${backend}": there are ${BACKENDS.join(", ")}`);
  }
  if (backend === "cuda") return await buildCuda(options);
  if (options.arch !== undefined) throw new PrerequisiteError("--arch is for --backend cuda only");
  if (options.bench) throw new PrerequisiteError("--bench is for --backend cuda only");
  const folder = new URL(`build/${sanitize ? "sanitize" : backend}/`, PROJECT_FOLDER);
  const library = `liboctavo-${backend}.so`;
  const sources = await hashSources(`${backend} sanitize=${sanitize}`);
  if (!force && await isUpToDate(folder, sources)) return false;
  await checkTools();
  return await withFileLock(toPath(new URL(".lock", folder)), async () => {
    // Another process may have built it meanwhile.
    if (!force && await isUpToDate(folder, sources)) return false;
    await compileCpu({ folder, library, sources, sanitize });
    return true;
  });
}

interface CpuBuild {
  readonly folder: URL;
  readonly library: string;
  readonly sources: string;
  readonly sanitize: boolean;
}

async function compileCpu({ folder, library, sources, sanitize }: CpuBuild): Promise<void> {
  console.error(`Building ${library}${sanitize ? " with sanitizers" : ""} (a minute or two, once) ...`);
  const start = performance.now();
  const cmakeFolder = new URL("cmake/", folder);
  const generator = await has("ninja") ? "Ninja" : "Unix Makefiles";
  const source = toPath(new URL("cuda", PROJECT_FOLDER));
  await removeForeignCache(cmakeFolder, { CMAKE_HOME_DIRECTORY: source, CMAKE_GENERATOR: generator });
  await Deno.mkdir(cmakeFolder, { recursive: true });
  const flags = ["-G", generator, `-DOCTAVO_SANITIZE=${sanitize ? "ON" : "OFF"}`];
  await runQuietly("cmake", ["-S", source, "-B", toPath(cmakeFolder), ...flags]);
  await runQuietly("cmake", ["--build", toPath(cmakeFolder), "-j", `${navigator.hardwareConcurrency}`]);
  await install(new URL(library, cmakeFolder), folder, { file: library, sources });
  console.error(`Built ${library} in ${((performance.now() - start) / 1000).toFixed(0)} s`);
}

/**
 * Removes CMake's folder when it was made for other settings, which CMake refuses to change: the project was moved, or
 * Ninja was installed since.
 */
export async function removeForeignCache(folder: URL, expected: Readonly<Record<string, string>>): Promise<void> {
  const cache = await Deno.readTextFile(new URL("CMakeCache.txt", folder)).catch(() => null);
  if (cache === null) return;
  const isOurs = Object.entries(expected).every(([name, value]) => cache.includes(`\n${name}:INTERNAL=${value}\n`));
  if (!isOurs) await Deno.remove(folder, { recursive: true });
}

async function buildCuda({ sanitize, force = false, arch, jobs, bench = false }: BuildOptions): Promise<boolean> {
  if (sanitize) throw new PrerequisiteError("--sanitize is for --backend cpu only: run tests under compute-sanitizer");
  if (arch !== undefined && !(CUDA_ARCHS as readonly string[]).includes(arch)) {
    throw new PrerequisiteError(`Cannot build for --arch "${arch}": there are ${CUDA_ARCHS.join(", ")}`);
  }
  const archs = arch === undefined ? CUDA_ARCHS : [arch];
  const folder = new URL("build/cuda/", PROJECT_FOLDER);
  const sources = await hashSources(`cuda ${archs.join(" ")}`);
  if (!force && !bench && await isUpToDate(folder, sources)) return false;
  await checkCompiler();
  console.error(`Building liboctavo-cuda.so for ${archs.join(", ")} (some minutes, once) ...`);
  const start = performance.now();
  const built = await compileCuda(folder, archs, jobs ?? navigator.hardwareConcurrency);
  await install(built, folder, { file: "liboctavo-cuda.so", sources });
  if (bench) console.error(`Built ${(await compileCudaBenches(folder, archs)).map(toPath).join(" and ")}`);
  console.error(`Built liboctavo-cuda.so in ${((performance.now() - start) / 1000).toFixed(0)} s`);
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
  await checkCompiler();
  if (!await has("ninja") && !await has("make")) {
    throw new PrerequisiteError(
      "Ninja or make is needed to build the native library; install one with: sudo apt-get install -y ninja-build",
    );
  }
}

async function checkCompiler(): Promise<void> {
  const version = await firstLine("g++", ["-dumpversion"]);
  if (version === null) {
    throw new PrerequisiteError(`A C++20 compiler (g++ 12 or newer) is needed; ${COMPILER_HINT}`);
  }
  if (Number.parseInt(version) < 12) {
    throw new PrerequisiteError(`g++ 12 or newer is needed, found ${version}; ${COMPILER_HINT}-12`);
  }
}

function toJobs(text: string): number {
  const jobs = Number(text);
  if (!Number.isInteger(jobs) || jobs < 1) {
    throw new PrerequisiteError(`--jobs must be a number above 0, found "${text}"`);
  }
  return jobs;
}

if (import.meta.main) {
  const flags = parseArgs(Deno.args, {
    string: ["backend", "arch", "jobs"],
    boolean: ["sanitize", "force", "bench"],
    default: { backend: "cpu" },
  });
  try {
    const { arch, jobs } = flags;
    const options = { ...(arch === undefined ? {} : { arch }), ...(jobs === undefined ? {} : { jobs: toJobs(jobs) }) };
    const { backend, sanitize, force, bench } = flags;
    if (!await build({ backend, sanitize, force, bench, ...options })) {
      console.error("The native library is up to date");
    }
  } catch (error) {
    console.error((error as Error).message);
    Deno.exit(1);
  }
}
