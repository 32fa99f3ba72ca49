/**
 * Where the native library may lie, and whether what lies there is what was built.
 *
 * @module
 */

/** `OCTAVO_ABI_VERSION` of the header this version was written against; `tests/ffi/abi_test.ts` compares them. */
export const ABI_VERSION = 11;

/** What there is a native library for, in the order in which "auto" tries them. */
export const BACKENDS = ["cuda", "cpu"] as const;

/** One of {@linkcode BACKENDS}. */
export type Backend = typeof BACKENDS[number];

/** A device to run on. */
export type Device = "auto" | Backend;

/** What lies beside every built or installed library, as `octavo.json`. */
export interface LibraryManifest {
  readonly file: string;
  readonly abi_version: number;
  /** Hex SHA-256 of the file. */
  readonly sha256: string;
}

/** The project's folder (the one with deno.json). */
export const PROJECT_FOLDER = new URL("..", import.meta.url);

/**
 * Looks in every place for a backend's library.
 *
 * @param project The folder that holds `build/` and above which `node_modules/` are looked for.
 * @returns The library's path, or null with one line a place saying why not.
 */
export async function findLibrary(
  backend: Backend,
  project: URL = PROJECT_FOLDER,
): Promise<{ path: string | null; searched: string[] }> {
  const given = Deno.env.get("OCTAVO_LIB");
  if (given) return { path: given, searched: [`OCTAVO_LIB=${given}`] };
  const searched = ["OCTAVO_LIB: not set"];
  for (const folder of folders(backend, project)) {
    const { path, reason } = await checkFolder(folder);
    if (path !== null) return { path, searched };
    searched.push(`${decodeURIComponent(folder.pathname)}: ${reason}`);
  }
  return { path: null, searched };
}

/** The local build folder, then installed packages from the project upwards, as Node resolves them. */
function folders(backend: string, project: URL): URL[] {
  const list = [new URL(`build/${backend}/`, project)];
  const packageName = `node_modules/@octavo/${backend}-${Deno.build.os}-${Deno.build.arch}/`;
  for (let at = project;; at = new URL("..", at)) {
    list.push(new URL(packageName, at));
    if (at.pathname === "/") return list;
  }
}

async function checkFolder(folder: URL): Promise<{ path: string | null; reason: string }> {
  try {
    const manifest = JSON.parse(await Deno.readTextFile(new URL("octavo.json", folder))) as LibraryManifest;
    const file = new URL(manifest.file, folder);
    const digest = await sha256(await Deno.readFile(file));
    if (manifest.abi_version !== ABI_VERSION) {
      return { path: null, reason: `ABI version ${manifest.abi_version}, needed ${ABI_VERSION}` };
    }
    if (digest !== manifest.sha256) {
      return { path: null, reason: `${manifest.file} has SHA-256 ${digest}, its octavo.json says ${manifest.sha256}` };
    }
    return { path: decodeURIComponent(file.pathname), reason: "" };
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return { path: null, reason: "not there" };
    return { path: null, reason: (error as Error).message };
  }
}

/** @returns The hex SHA-256 of the bytes. */
export async function sha256(bytes: Uint8Array<ArrayBuffer>): Promise<string> {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", bytes)).toHex();
}
