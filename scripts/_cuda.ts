/**
 * Builds `liboctavo-cuda.so` with nvcc. Where no CUDA toolkit is installed, the compiler comes as wheels from PyPI
 * (about 110 MB) into `build/toolchain/`; nothing of it is needed where the library runs but NVIDIA's driver.
 *
 * @module
 */

import { PROJECT_FOLDER, sha256 } from "../ffi/library_search.ts";
import { firstLine, has, PrerequisiteError, runQuietly, toPath } from "./_command.ts";

/** Targets of a full build: Ampere, Ada, Hopper, Blackwell for data centres and for desks. */
export const CUDA_ARCHS = ["sm_80", "sm_89", "sm_90a", "sm_100a", "sm_120a"] as const;

// CUDA 13.0: its programs run on every driver of the 13 series (580 and newer).
const WHEELS = [
  "nvidia-cuda-nvcc==13.0.88",
  "nvidia-cuda-crt==13.0.88",
  "nvidia-nvvm==13.0.88",
  "nvidia-cuda-runtime==13.0.96",
  "nvidia-cuda-cccl==13.0.85",
  "nvidia-cuda-cuobjdump==13.2.51",
  "nvidia-cuda-nvdisasm==13.2.51",
];
const TOOLCHAIN = new URL("build/toolchain/cuda-13.0.88/", PROJECT_FOLDER);
const SOURCES = new URL("cuda/", PROJECT_FOLDER);
// Host code that all builds share; the rest of the GPU build is .cu files.
const SHARED = [
  "arch/cpu.cpp",
  "arch/error.cpp",
  "arch/thread_pool.cpp",
  "attn/attention_checks.cpp",
  "gemm/format.cpp",
  "kv/checks.cpp",
  "kv/shape.cpp",
  "model/engine_api.cpp",
  "model/kv_cache_config.cpp",
  "model/mapped_file.cpp",
  "model/model_api.cpp",
  "model/model_base.cpp",
  "model/model_config.cpp",
  "model/page_layout.cpp",
  "model/roles.cpp",
  "model/step_check.cpp",
  "model/step_layout.cpp",
  "model/step_queue.cpp",
  "model/transfer.cpp",
  "ops/compare_logits.cpp",
  "ops/sampling_params.cpp",
];

const INSTALLED = "/usr/local/cuda/bin/"; // where NVIDIA's installers put it

/**
 * Finds the CUDA tools: an installed toolkit, else the wheels, fetched once.
 *
 * @returns The folder that holds `nvcc`, `cuobjdump` and `nvdisasm`.
 * @throws {PrerequisiteError} Neither is there and pip cannot fetch them.
 */
export async function findCudaTools(): Promise<string> {
  if (await has(`${INSTALLED}nvcc`)) return INSTALLED;
  const root = new URL("nvidia/cu13/", TOOLCHAIN);
  const bin = toPath(new URL("bin/", root));
  if (await has(`${bin}nvcc`)) return bin;
  if (await firstLine("python3", ["-m", "pip", "--version"]) === null) {
    throw new PrerequisiteError(
      "nvcc is needed to build the CUDA library: install the CUDA toolkit, or python3 with pip to fetch the compiler " +
        "(sudo apt-get install -y python3-pip)",
    );
  }
  console.error("Fetching the CUDA compiler (about 110 MB, once) ...");
  const partial = new URL(`../cuda.${Deno.pid}/`, TOOLCHAIN);
  await runQuietly("python3", ["-m", "pip", "install", "--no-deps", "--target", toPath(partial), ...WHEELS]);
  await Deno.rename(partial, TOOLCHAIN);
  return bin;
}

/**
 * Compiles what has changed and links.
 *
 * @param folder Where objects and the library are kept.
 * @param archs Targets, as nvcc names them.
 * @param jobs Compilers at a time.
 * @returns The library.
 */
export async function compileCuda(folder: URL, archs: readonly string[], jobs: number): Promise<URL> {
  const tools = await findCudaTools();
  const nvcc = `${tools}nvcc`;
  const objects = new URL("obj/", folder);
  await Deno.mkdir(objects, { recursive: true });
  const targets = archs.flatMap((arch) => ["-gencode", `arch=${arch.replace("sm_", "compute_")},code=${arch}`]);
  const include = ["-I", toPath(SOURCES), "-I", toPath(new URL("include/", SOURCES))];
  const options = [...targets, "-std=c++20", "-O3", "-Xcompiler", "-fPIC,-fvisibility=hidden,-Wall,-Wextra"];
  const flags = [...options, ...include];
  const files = (await listSources(SOURCES, "")).sort();
  const units = [...files.filter((name) => name.endsWith(".cu")), ...SHARED];
  const queue = [...units];
  const worker = async () => {
    for (let name = queue.shift(); name !== undefined; name = queue.shift()) {
      const object = new URL(`${name.replaceAll("/", "_")}.o`, objects);
      // Not the folders' names: objects serve another copy of the same sources.
      const parts = [options.join(" "), ...await Promise.all((await includesOf(name)).map(hashFile))];
      const key = await sha256(new TextEncoder().encode(parts.join("\n")));
      if (await isBuilt(object, key)) continue;
      await runQuietly(nvcc, [...flags, "-c", toPath(new URL(name, SOURCES)), "-o", toPath(object)]);
      await Deno.writeTextFile(new URL(`${object.href}.key`), key);
    }
  };
  await Promise.all(Array.from({ length: jobs }, worker));
  const exports = new URL("exports.map", objects);
  await Deno.writeTextFile(exports, "{ global: octavo_*; local: *; };\n");
  const library = new URL("liboctavo-cuda.so", objects);
  const link = [`--version-script=${toPath(exports)}`, "-z,defs"].flatMap((one) => ["-Xlinker", one]);
  const parts = units.map((name) => toPath(new URL(`${name.replaceAll("/", "_")}.o`, objects)));
  const statically = [
    "-L",
    `${tools}../lib`,
    "-cudart",
    "static",
    "-Xcompiler",
    "-fPIC,-static-libstdc++,-static-libgcc",
  ];
  await runQuietly(nvcc, ["-shared", ...targets, ...statically, ...link, ...parts, "-o", toPath(library), "-ldl"]);
  return library;
}

/** A source file and what it includes of ours, directly or not. */
async function includesOf(unit: string): Promise<string[]> {
  const found = new Set([unit]);
  for (const name of found) {
    const text = await Deno.readTextFile(new URL(name, SOURCES));
    for (const [, include] of text.matchAll(/^\s*#\s*include\s+"([^"]+)"/gm)) {
      found.add(include === "octavo.h" ? "include/octavo.h" : include!);
    }
  }
  return [...found].sort();
}

/**
 * Links `bench/gpu_attention.cu` and `bench/gpu_matmul.cu` with the library's objects, which must have been compiled into
 * `folder`.
 *
 * @returns The programs.
 */
export async function compileCudaBenches(folder: URL, archs: readonly string[]): Promise<URL[]> {
  const tools = await findCudaTools();
  const targets = archs.flatMap((arch) => ["-gencode", `arch=${arch.replace("sm_", "compute_")},code=${arch}`]);
  const files = await listSources(SOURCES, "");
  const units = [...files.filter((name) => name.endsWith(".cu")), ...SHARED];
  const programs: URL[] = [];
  for (const name of ["gpu_attention", "gpu_matmul"]) {
    const program = new URL(name, folder);
    await runQuietly(`${tools}nvcc`, [
      ...[...targets, "-std=c++20", "-O3", "-I", toPath(SOURCES), "-I", toPath(new URL("include/", SOURCES))],
      ...["-L", `${tools}../lib`, "-cudart", "static", toPath(new URL(`bench/${name}.cu`, PROJECT_FOLDER))],
      ...units.map((unit) => toPath(new URL(`obj/${unit.replaceAll("/", "_")}.o`, folder))),
      ...["-o", toPath(program), "-ldl"],
    ]);
    programs.push(program);
  }
  return programs;
}

async function isBuilt(object: URL, key: string): Promise<boolean> {
  try {
    await Deno.stat(object);
    return await Deno.readTextFile(new URL(`${object.href}.key`)) === key;
  } catch {
    return false; // never built, or a build was cut short
  }
}

async function hashFile(name: string): Promise<string> {
  return `${name} ${await sha256(await Deno.readFile(new URL(name, SOURCES)))}`;
}

async function listSources(folder: URL, prefix: string): Promise<string[]> {
  const files: string[] = [];
  for await (const entry of Deno.readDir(folder)) {
    const name = prefix + entry.name;
    if (entry.isDirectory) files.push(...await listSources(new URL(`${entry.name}/`, folder), `${name}/`));
    else files.push(name);
  }
  return files;
}
