/**
 * Finds and opens the native library: `OCTAVO_LIB`, then the local build folder, then an installed prebuilt
 * package. This and `symbols.ts` are the only places that know `Deno.dlopen`.
 *
 * @module
 */

import { STATUS } from "./enums.ts";
import { ABI_VERSION, type Backend, type Device, findLibrary } from "./library_search.ts";
import { DEVICE_INFO } from "./structs.ts";
import { SYMBOLS } from "./symbols.ts";

/** The native library failed; the message is its own. */
export class NativeError extends Error {
  override readonly name = "NativeError";

  /** @param status Its `octavo_status`; null where a function gives none (those that return a handle or an index). */
  constructor(message: string, readonly status: number | null) {
    super(message);
  }
}

/** No usable library was found, or it does not fit this version of Octavo. */
export class LibraryError extends Error {
  override readonly name = "LibraryError";
}

/** What `octavo_device_info` says. */
export interface DeviceInfo {
  readonly backend: string;
  readonly name: string;
  /** The code path in use, for example "avx512_vnni" or "sm_90". */
  readonly isa: string;
  readonly numCores: number;
  readonly memoryBytes: number;
  readonly memoryFreeBytes: number;
}

type Symbols = Deno.DynamicLibrary<typeof SYMBOLS>["symbols"];

/** An open native library. */
export class Library implements Disposable {
  readonly path: string;
  #dylib: Deno.DynamicLibrary<typeof SYMBOLS> | null;
  #numHandles = 0;

  constructor(path: string) {
    this.path = path;
    this.#dylib = dlopen(path);
  }

  /** The functions of octavo.h. @throws {TypeError} After `close()`: their code is gone. */
  get symbols(): Symbols {
    if (this.#dylib === null) throw new TypeError("Cannot use a closed native library");
    return this.#dylib.symbols;
  }

  /** The calling thread's last error. */
  lastError(): string {
    const buffer = new Uint8Array(1024);
    const length = this.symbols.octavo_last_error(buffer, buffer.length);
    return new TextDecoder().decode(buffer.subarray(0, Math.min(length, buffer.length - 1)));
  }

  /** @throws {NativeError} Unless status is `OCTAVO_OK`. */
  check(status: number): void {
    if (status !== STATUS.OK) throw new NativeError(this.lastError(), status);
  }

  /** @throws {NativeError} When no usable device is found. */
  deviceInfo(): DeviceInfo {
    const bytes = new Uint8Array(DEVICE_INFO.sizeBytes);
    this.check(this.symbols.octavo_device_info(bytes));
    const info = DEVICE_INFO.decode(bytes);
    return {
      backend: info.backend,
      name: info.name,
      isa: info.isa,
      numCores: info.num_cores,
      memoryBytes: info.memory_bytes,
      memoryFreeBytes: info.memory_free_bytes,
    };
  }

  /** Called by handles as they open (+1) and close (-1). */
  countHandle(change: 1 | -1): void {
    this.#numHandles += change;
  }

  /**
   * Unmaps the library's code; further calls do nothing.
   *
   * @throws {TypeError} Handles made from it are still open.
   */
  close(): void {
    if (this.#numHandles > 0) {
      throw new TypeError(`Cannot close the native library: ${this.#numHandles} handles are still open`);
    }
    this.#dylib?.close();
    this.#dylib = null;
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/**
 * Opens a backend's library.
 *
 * @throws {LibraryError} One message that names every place searched and the command that builds it.
 */
export async function openLibrary(backend: Backend): Promise<Library> {
  const { path, searched } = await findLibrary(backend);
  if (path === null) {
    throw new LibraryError(
      `Cannot find the native library for device "${backend}". Searched:\n${
        searched.map((line) => `  - ${line}`).join("\n")
      }\nBuild it with: ${buildCommand(backend)}`,
    );
  }
  return new Library(path);
}

/** A library whose device can be used. */
export interface OpenDevice {
  readonly library: Library;
  /** "auto" came to the CPU: why no GPU is used. */
  readonly whyCpu: string | null;
}

/**
 * Opens the library for a device and checks that there is such a device. "auto" takes a GPU where there is one and its
 * library is built, else the CPU; `OCTAVO_LIB` names the library for all of them.
 *
 * @param open For tests.
 * @throws {LibraryError} The library is not there, or `OCTAVO_LIB` names one for another device.
 * @throws {NativeError} There is no such device, or its driver is too old.
 */
export async function openDevice(device: Device, open: typeof openLibrary = openLibrary): Promise<OpenDevice> {
  if (device === "auto" && !Deno.env.get("OCTAVO_LIB")) {
    try {
      return { library: checked(await open("cuda"), "cuda"), whyCpu: null };
    } catch (error) {
      if (!(error instanceof LibraryError || error instanceof NativeError)) throw error;
      // Most machines have no such library: that is no error, and its searched places are no news.
      const whyCpu = error instanceof NativeError
        ? withoutPrefix(error.message)
        : `no CUDA library is there that fits; build it with: ${buildCommand("cuda")}`;
      return { library: checked(await open("cpu"), "cpu"), whyCpu };
    }
  }
  try {
    return { library: checked(await open(device === "auto" ? "cpu" : device), device), whyCpu: null };
  } catch (error) {
    if (!(error instanceof NativeError)) throw error;
    throw new NativeError(`Cannot run on device "${device}": ${withoutPrefix(error.message)}`, error.status);
  }
}

/** What the library says where it has no GPU, without how it begins. */
function withoutPrefix(message: string): string {
  return message.replace(/^no usable CUDA device: /, "");
}

/** The library, if it is for the device and can use it; else it is closed. */
function checked(library: Library, device: Device): Library {
  try {
    const { backend } = library.deviceInfo();
    if (device === "auto" || backend === device) return library;
    throw new LibraryError(`Cannot run on device "${device}": the library "${library.path}" is for "${backend}"`);
  } catch (error) {
    library.close();
    throw error;
  }
}

function buildCommand(backend: Backend): string {
  return `deno task build --backend ${backend}`;
}

/** Checks the ABI version before it asks for symbols that another version may lack. */
function dlopen(path: string): Deno.DynamicLibrary<typeof SYMBOLS> {
  let version: number;
  try {
    const probe = Deno.dlopen(path, { octavo_abi_version: SYMBOLS.octavo_abi_version });
    version = probe.symbols.octavo_abi_version();
    probe.close();
  } catch (error) {
    if (error instanceof Deno.errors.NotCapable) throw error;
    throw new LibraryError(`Cannot open the native library "${path}": ${(error as Error).message}`);
  }
  if (version !== ABI_VERSION) {
    throw new LibraryError(
      `Cannot use the native library "${path}": its ABI version is ${version}, this Octavo needs ${ABI_VERSION}; ` +
        `build it again with: deno task build`,
    );
  }
  return Deno.dlopen(path, SYMBOLS);
}
