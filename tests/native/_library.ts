/**
 * Opens the native library for tests, once per code path that this machine offers.
 *
 * @module
 */
import { DEVICE_INFO } from "../../ffi/structs.ts";
import { SYMBOLS } from "../../ffi/symbols.ts";

/** Code paths of `arch/cpu.h`, each a superset of the one before. */
export type Isa = "portable" | "avx2" | "avx512" | "avx512_vnni";

type SymbolName = keyof typeof SYMBOLS;

const ISAS: readonly Isa[] = ["portable", "avx2", "avx512", "avx512_vnni"];
const LIBRARY_PATH = Deno.env.get("OCTAVO_LIB") ??
  new URL("../../build/cpu/liboctavo-cpu.so", import.meta.url).pathname;

/** A library opened by {@linkcode openLibrary}. */
export interface OpenLibrary<N extends SymbolName> {
  readonly symbols: Deno.DynamicLibrary<Pick<typeof SYMBOLS, N>>["symbols"];
  /** The code path in use. */
  readonly isa: Isa;
  /** The calling thread's last error. */
  lastError(): string;
  /** Throws an Error with the last error's text unless status is 0 (`OCTAVO_OK`). */
  check(status: number): void;
  close(): void;
}

function dlopen<N extends SymbolName>(path: string, names: readonly N[]): OpenLibrary<N> {
  const wanted = Object.fromEntries(names.map((name) => [name, SYMBOLS[name]])) as Pick<typeof SYMBOLS, N>;
  const own = Deno.dlopen(path, wanted);
  const { octavo_last_error, octavo_device_info } = SYMBOLS;
  const common = Deno.dlopen(path, { octavo_last_error, octavo_device_info });
  const lastError = () => {
    const message = new Uint8Array(1024);
    const length = common.symbols.octavo_last_error(message, message.length);
    return new TextDecoder().decode(message.subarray(0, length));
  };
  const check = (status: number) => {
    if (status !== 0) throw new Error(`native call failed with status ${status}: ${lastError()}`);
  };
  const close = () => {
    common.close();
    own.close();
  };
  const info = new Uint8Array(DEVICE_INFO.sizeBytes);
  check(common.symbols.octavo_device_info(info));
  return { symbols: own.symbols, isa: DEVICE_INFO.decode(info).isa as Isa, lastError, check, close };
}

/**
 * Opens a private copy of the library with `open`, which must call into it once, so that it runs the code path `isa`
 * whatever the process runs otherwise: the library chooses once.
 */
export function withIsaCopy<T>(isa: Isa, open: (path: string) => T): T {
  const folder = Deno.makeTempDirSync({ prefix: "octavo-" });
  const before = Deno.env.get("OCTAVO_ISA");
  try {
    const copy = `${folder}/liboctavo-${isa}.so`;
    Deno.copyFileSync(libraryPath(), copy);
    Deno.env.set("OCTAVO_ISA", isa);
    return open(copy);
  } finally {
    if (before === undefined) Deno.env.delete("OCTAVO_ISA");
    else Deno.env.set("OCTAVO_ISA", before);
    Deno.removeSync(folder, { recursive: true });
  }
}

/** The library named by `OCTAVO_LIB`, or the local build. @throws {Error} It is not there; says how to build it. */
export function libraryPath(): string {
  try {
    Deno.statSync(LIBRARY_PATH);
    return LIBRARY_PATH;
  } catch {
    throw new Error(`cannot find ${LIBRARY_PATH}; build it with: deno task build`);
  }
}

/**
 * Opens the library with the code path `isa`, or the one the process runs.
 *
 * @param names The functions that `symbols` will have.
 * @throws {Error} If the library is not there, or the machine lacks `isa`.
 */
export function openLibrary<const N extends SymbolName>(names: readonly N[], isa?: Isa): OpenLibrary<N> {
  return isa === undefined ? dlopen(libraryPath(), names) : withIsaCopy(isa, (path) => dlopen(path, names));
}

/** Opens the library once for each code path this machine offers, or only for those wanted among them. */
export function openEachIsa<const N extends SymbolName>(names: readonly N[], wanted = ISAS): OpenLibrary<N>[] {
  const libraries: OpenLibrary<N>[] = [];
  for (const isa of wanted) {
    try {
      libraries.push(openLibrary(names, isa));
    } catch (error) {
      if (!(error instanceof Error) || !error.message.includes("this processor offers only")) throw error;
    }
  }
  return libraries;
}
