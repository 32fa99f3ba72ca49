/**
 * Fetches a file over HTTP: goes on where an earlier try ended, checks what it got, puts it in place at once.
 *
 * @module
 */

import { createHash, type Hash } from "node:crypto";
import { setTimeout as delay } from "node:timers/promises";

/** The transfer failed; what has arrived is kept for the next try. */
export class DownloadError extends Error {
  override readonly name = "DownloadError";
  /** HTTP status, or null when the connection failed. */
  readonly status: number | null;

  constructor(message: string, options: { status?: number; cause?: unknown } = {}) {
    super(message, { cause: options.cause });
    this.status = options.status ?? null;
  }
}

export interface Download {
  readonly url: string;
  /** Sent to the first host only, never to one it redirects to. */
  readonly token: string | null;
  /** Where the file ends up; until then it lies beside it with ".incomplete" added. */
  readonly path: string;
  readonly sizeBytes: number;
  /** Of the content; "git" is the SHA-1 of a git blob. */
  readonly digest: { readonly kind: "sha256" | "git"; readonly hex: string };
  /** Called with the bytes that are there. */
  readonly onBytes: (doneBytes: number) => void;
}

const maxRedirects = 5;
/** Tries in a row that bring not a single byte. */
const maxFutileTries = 3;
const firstPauseMs = 100;
const stallMs = 60_000;

/**
 * @throws {DownloadError} When the server refuses, the connection keeps failing, or the content is not the one promised.
 */
export async function download(request: Download): Promise<void> {
  const incomplete = `${request.path}.incomplete`;
  using file = await Deno.open(incomplete, { read: true, write: true, create: true });
  const { sizeBytes, digest } = request;
  const arrived = await Arrived.of(file, request);
  for (let futile = 0; arrived.bytes < sizeBytes;) {
    const before = arrived.bytes;
    try {
      await transfer(request, file, arrived);
    } catch (error) {
      futile = arrived.bytes > before ? 0 : futile + 1;
      const isPassing = error instanceof DownloadError && (error.status === null || error.status >= 500);
      if (!isPassing || futile === maxFutileTries) throw error;
      await delay(firstPauseMs * 2 ** futile);
    }
  }
  const found = arrived.digest();
  if (found !== digest.hex) {
    await Deno.remove(incomplete);
    const problem = `must have the ${digest.kind} digest ${digest.hex}, found ${found}`;
    throw new DownloadError(`${request.url} ${problem}`, { status: 200 });
  }
  await file.syncData();
  await Deno.rename(incomplete, request.path);
}

/** The part of the file that is there, and the digest of it so far. */
class Arrived {
  bytes = 0;
  readonly #request: Download;
  #hash: Hash;

  constructor(request: Download) {
    this.#request = request;
    this.#hash = this.#newHash();
  }

  #newHash(): Hash {
    const { digest, sizeBytes } = this.#request;
    return digest.kind === "git" ? createHash("sha1").update(`blob ${sizeBytes}\0`) : createHash("sha256");
  }

  async restart(file: Deno.FsFile): Promise<void> {
    await file.truncate(0);
    await file.seek(0, Deno.SeekMode.Start);
    this.bytes = 0;
    this.#hash = this.#newHash();
  }

  /** Takes over what an earlier try has left; leaves the file's position behind it. */
  static async of(file: Deno.FsFile, request: Download): Promise<Arrived> {
    const arrived = new Arrived(request);
    if ((await file.stat()).size > request.sizeBytes) await file.truncate(0);
    const chunk = new Uint8Array(1 << 20);
    for (let count = await file.read(chunk); count !== null; count = await file.read(chunk)) {
      arrived.add(chunk.subarray(0, count));
    }
    return arrived;
  }

  add(chunk: Uint8Array): void {
    this.#hash.update(chunk);
    this.bytes += chunk.length;
  }

  digest(): string {
    return this.#hash.digest("hex");
  }
}

/** Asks for what is missing and writes it; starts anew when the server sends all from the start. */
async function transfer(request: Download, file: Deno.FsFile, arrived: Arrived): Promise<void> {
  using stall = new StallTimer();
  const response = await ask(request, arrived.bytes, stall.signal);
  if (response.status !== 206 && arrived.bytes > 0) await arrived.restart(file);
  try {
    for await (const chunk of response.body ?? []) {
      stall.reset();
      if (arrived.bytes + chunk.length > request.sizeBytes) {
        throw new DownloadError(`${request.url} sent more than its ${request.sizeBytes} bytes`, { status: 200 });
      }
      await writeAll(file, chunk);
      arrived.add(chunk);
      request.onBytes(arrived.bytes);
    }
  } catch (error) {
    throw error instanceof DownloadError ? error : broken(request, arrived.bytes, error);
  }
  if (arrived.bytes < request.sizeBytes) throw broken(request, arrived.bytes, null);
}

function broken(request: Download, bytes: number, cause: unknown): DownloadError {
  const kept = "what has arrived is kept: try again to go on from there";
  return new DownloadError(`${request.url} broke off after ${bytes} of ${request.sizeBytes} bytes; ${kept}`, { cause });
}

/** Follows redirects by hand, so that the token stays with the host it is for. */
async function ask(request: Download, from: number, signal: AbortSignal): Promise<Response> {
  let url = new URL(request.url);
  const { origin } = url;
  for (let hop = 0; hop <= maxRedirects; hop++) {
    const headers = new Headers({ "accept-encoding": "identity" });
    if (from > 0) headers.set("range", `bytes=${from}-`);
    if (request.token !== null && url.origin === origin) headers.set("authorization", `Bearer ${request.token}`);
    const response = await fetchOrExplain(url, { headers, signal, redirect: "manual" });
    const location = response.headers.get("location");
    if (response.status >= 300 && response.status < 400 && location !== null) {
      await response.body?.cancel();
      url = new URL(location, url);
      continue;
    }
    return await checkResponse(request, from, response);
  }
  throw new DownloadError(`${request.url} redirects more than ${maxRedirects} times`, { status: 310 });
}

async function fetchOrExplain(url: URL, init: RequestInit): Promise<Response> {
  try {
    return await fetch(url, init);
  } catch (error) {
    if (error instanceof Deno.errors.NotCapable) throw error;
    throw new DownloadError(`${url.origin} cannot be reached`, { cause: error });
  }
}

async function checkResponse(request: Download, from: number, response: Response): Promise<Response> {
  const { status, headers } = response;
  if (status === 200) return response;
  const range = /^bytes (\d+)-\d+\/(\d+)$/.exec(headers.get("content-range") ?? "");
  if (status === 206 && Number(range?.[1]) === from && Number(range?.[2]) === request.sizeBytes) return response;
  await response.body?.cancel();
  if (status === 206) {
    const wanted = `bytes ${from}- of ${request.sizeBytes}`;
    throw new DownloadError(`${request.url} must send ${wanted}, found ${headers.get("content-range")}`, { status });
  }
  throw new DownloadError(`${request.url} answered with HTTP status ${status}`, { status });
}

async function writeAll(file: Deno.FsFile, chunk: Uint8Array): Promise<void> {
  for (let written = 0; written < chunk.length;) written += await file.write(chunk.subarray(written));
}

/** Aborts when `reset()` is not called for a while. */
class StallTimer implements Disposable {
  readonly #controller = new AbortController();
  #timer = this.#start();

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  reset(): void {
    clearTimeout(this.#timer);
    this.#timer = this.#start();
  }

  #start(): ReturnType<typeof setTimeout> {
    return setTimeout(() => this.#controller.abort(), stallMs);
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
  }
}

/** SHA-256 of a file, in hexadecimal. */
export async function fileSha256(path: string): Promise<string> {
  const hash = createHash("sha256");
  using file = await Deno.open(path);
  const chunk = new Uint8Array(1 << 20);
  for (let count = await file.read(chunk); count !== null; count = await file.read(chunk)) {
    hash.update(chunk.subarray(0, count));
  }
  return hash.digest("hex");
}
