/**
 * A small Hugging Face hub on the loopback: two servers, so that large files redirect to another host.
 *
 * @module
 */

import { createHash } from "node:crypto";

export interface HubRepository {
  /** Content by path. */
  readonly files: Readonly<Record<string, Uint8Array>>;
  readonly revisions: Readonly<Record<string, string>>;
  /** Answers only to this token. */
  readonly token?: string;
}

export interface HubServer extends AsyncDisposable {
  readonly endpoint: string;
  /** "GET /path", with the range and token that came along, in order. */
  readonly requests: { readonly path: string; readonly range: string | null; readonly token: string | null }[];
  /** Bytes after which the next downloads break off; used up one by one. */
  readonly breaks: number[];
  /** Answer ranges with the whole file. */
  ignoresRanges: boolean;
}

/** Files from this size on are "large": kept by digest on the other host. */
const largeBytes = 1000;

export function startHubServer(repositories: Readonly<Record<string, HubRepository>>): HubServer {
  const listen = (handler: (request: Request) => Response) =>
    Deno.serve({ port: 0, hostname: "127.0.0.1", onListen: () => {} }, handler);
  const requests: HubServer["requests"] = [];
  const breaks: number[] = [];
  const state = { ignoresRanges: false };

  const note = (request: Request) => {
    const { pathname } = new URL(request.url);
    const token = request.headers.get("authorization")?.replace("Bearer ", "") ?? null;
    requests.push({ path: decodeURIComponent(pathname), range: request.headers.get("range"), token });
    return { path: decodeURIComponent(pathname), token };
  };

  const content = (request: Request, bytes: Uint8Array): Response => {
    const start = state.ignoresRanges ? 0 : Number(/^bytes=(\d+)-$/.exec(request.headers.get("range") ?? "")?.[1] ?? 0);
    const headers = new Headers();
    if (start > 0) headers.set("content-range", `bytes ${start}-${bytes.length - 1}/${bytes.length}`);
    const end = Math.min(bytes.length, start + (breaks.shift() ?? Infinity));
    // Streamed without a length, as a proxy that loses its upstream ends: early, with no error.
    const body = new Blob([bytes.slice(start, end)]).stream();
    return new Response(body, { status: start > 0 ? 206 : 200, headers });
  };

  const blobs = new Map<string, Uint8Array>();
  for (const { files } of Object.values(repositories)) {
    for (const bytes of Object.values(files)) blobs.set(sha256(bytes), bytes);
  }
  const store = listen((request) => {
    const { path } = note(request);
    const bytes = blobs.get(path.slice(1));
    return bytes === undefined ? new Response(null, { status: 404 }) : content(request, bytes);
  });

  const hub = listen((request) => {
    const { path, token } = note(request);
    const api = /^\/api\/models\/([^/]+\/[^/]+)\/(revision|tree)\/(.+)$/.exec(path);
    const file = /^\/([^/]+\/[^/]+)\/resolve\/([^/]+)\/(.+)$/.exec(path);
    const repository = repositories[api?.[1] ?? file?.[1] ?? ""];
    if (repository === undefined) return Response.json({ error: "Repository not found" }, { status: 404 });
    if (repository.token !== undefined && repository.token !== token) {
      return Response.json({ error: "Access to this repository is restricted" }, { status: 401 });
    }
    const commit = repository.revisions[api?.[3] ?? file?.[2] ?? ""] ?? (api?.[3] ?? file?.[2]);
    if (!Object.values(repository.revisions).includes(commit ?? "")) {
      return Response.json({ error: "Invalid rev id" }, { status: 404 });
    }
    if (api?.[2] === "revision") return Response.json({ _id: "1", id: api[1], sha: commit, lastModified: 0 });
    if (api?.[2] === "tree") return Response.json(Object.entries(repository.files).map(treeEntry));
    const bytes = repository.files[file?.[3] ?? ""];
    if (bytes === undefined) return Response.json({ error: "Entry not found" }, { status: 404 });
    if (bytes.length < largeBytes) return content(request, bytes);
    return Response.redirect(`http://127.0.0.1:${store.addr.port}/${sha256(bytes)}`, 302);
  });

  return {
    endpoint: `http://127.0.0.1:${hub.addr.port}`,
    requests,
    breaks,
    get ignoresRanges() {
      return state.ignoresRanges;
    },
    set ignoresRanges(value) {
      state.ignoresRanges = value;
    },
    async [Symbol.asyncDispose]() {
      await Promise.all([hub.shutdown(), store.shutdown()]);
    },
  };
}

function treeEntry([path, bytes]: [string, Uint8Array]) {
  const blob = createHash("sha1").update(`blob ${bytes.length}\0`).update(bytes).digest("hex");
  const lfs = bytes.length < largeBytes ? {} : { lfs: { oid: sha256(bytes), size: bytes.length, pointerSize: 130 } };
  return { type: "file", path, size: bytes.length, oid: blob, ...lfs };
}

function sha256(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}
