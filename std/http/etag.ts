/**
 * Entity tags (RFC 9110, 8.8.3) and the conditions that use them.
 *
 * @module
 */

/** What a file's weak tag is made of. */
export interface FileInfo {
  /** Time of the last change; without it there is no tag. */
  mtime: Date | null;
  /** Bytes. */
  size: number;
}

/** Options of {@linkcode eTag}. */
export interface ETagOptions {
  /** Hash algorithm; default "SHA-256". */
  algorithm?: "SHA-1" | "SHA-256" | "SHA-384" | "SHA-512";
  /** Make a weak tag; always so for files. */
  weak?: boolean;
}

/** Characters of the hash kept in a tag. */
const HASH_LENGTH = 27;

/** A tag for a text or bytes: `"<length in hex>-<start of the hash in base64>"`. */
export function eTag(entity: string | Uint8Array, options?: ETagOptions): Promise<string>;
/** A weak tag for a file, from its size and time of change; undefined without the latter. */
export function eTag(entity: FileInfo, options?: ETagOptions): Promise<string | undefined>;
export async function eTag(
  entity: string | Uint8Array | FileInfo,
  options: ETagOptions = {},
): Promise<string | undefined> {
  const algorithm = options.algorithm ?? "SHA-256";
  if (typeof entity === "object" && !(entity instanceof Uint8Array)) {
    if (entity.mtime === null) return undefined;
    const hash = await hashStart(new TextEncoder().encode(entity.mtime.toJSON()), algorithm);
    return `W/"${entity.size.toString(16)}-${hash}"`;
  }
  const bytes = typeof entity === "string" ? new TextEncoder().encode(entity) : entity;
  const tag = `"${entity.length.toString(16)}-${await hashStart(bytes, algorithm)}"`;
  return options.weak ? `W/${tag}` : tag;
}

async function hashStart(bytes: Uint8Array, algorithm: string): Promise<string> {
  const hash = await crypto.subtle.digest(algorithm, bytes as BufferSource);
  return btoa(String.fromCharCode(...new Uint8Array(hash))).slice(0, HASH_LENGTH);
}

/** Whether a request with this `If-Match` header may go on: some listed tag is this one, compared strongly. */
export function ifMatch(value: string | null, etag: string | undefined): boolean {
  if (value === null || etag === undefined) return true;
  if (etag.startsWith("W/")) return false;
  return value.trim() === "*" || tags(value).includes(etag);
}

/** Whether a request with this `If-None-Match` header needs the body: no listed tag is this one, compared weakly. */
export function ifNoneMatch(value: string | null, etag: string | undefined): boolean {
  if (value === null || etag === undefined) return true;
  if (value.trim() === "*") return false;
  const strong = (tag: string) => tag.startsWith("W/") ? tag.slice(2) : tag;
  return !tags(value).map(strong).includes(strong(etag));
}

function tags(header: string): string[] {
  return header.split(",").map((tag) => tag.trim());
}
