import { assert, assertEquals, assertRejects } from "@std/assert";
import { fetchFromHub, parseHubSource } from "../../models/hub.ts";
import { HubError } from "../../models/hub_error.ts";
import { type HubSettings, hubSettings } from "../../models/hub_settings.ts";
import { openModel } from "../../models/open_model.ts";
import type { Progress } from "../../models/progress.ts";
import { dataPath, withTempFolder } from "./_fixtures.ts";
import { type HubRepository, type HubServer, startHubServer } from "./_hub_server.ts";

const commit = "0123456789abcdef0123456789abcdef01234567";
const revisions = { main: commit, "refs/pr/1": commit };

function folderFiles(name: string): Record<string, Uint8Array> {
  const folder = dataPath(name);
  const names = Array.from(Deno.readDirSync(folder), (entry) => entry.name);
  return Object.fromEntries(names.map((file) => [file, Deno.readFileSync(`${folder}/${file}`)]));
}

const tiny = folderFiles("tiny/base");
const sharded = folderFiles("tiny/sharded");
const repositories: Record<string, HubRepository> = {
  "octavo/tiny": { files: { ...tiny, "README.md": new Uint8Array(5) }, revisions },
  "octavo/sharded": { files: sharded, revisions },
  "octavo/gated": { files: tiny, revisions, token: "hf_right" },
  "octavo/empty": { files: { "README.md": new Uint8Array(5) }, revisions },
  "octavo/gguf": {
    files: {
      "m-Q4_K_M.gguf": new Uint8Array(2000),
      "m-Q8_0.gguf": new Uint8Array(3000),
      "mmproj-m.gguf": new Uint8Array(9),
    },
    revisions,
  },
};

async function withHub(
  test: (server: HubServer, settings: HubSettings, folder: string) => Promise<void>,
  token: string | null = null,
): Promise<void> {
  await using server = startHubServer(repositories);
  await withTempFolder((folder) =>
    test(server, { endpoint: server.endpoint, cacheFolder: `${folder}/hub`, token, isOffline: false }, folder)
  );
}

function weightRanges(server: HubServer): (string | null)[] {
  return server.requests.filter(({ path }) => /^\/[0-9a-f]{64}$/.test(path)).map(({ range }) => range);
}

Deno.test("parseHubSource() takes name, quantization and revision apart", () => {
  const plain = { repo: "org/name", quantization: null, revision: "main" };
  assertEquals(parseHubSource("org/name"), plain);
  assertEquals(parseHubSource("org/name:Q4_K_M"), { ...plain, quantization: "Q4_K_M" });
  assertEquals(parseHubSource("org/name:Q8_0@v1.0"), { ...plain, quantization: "Q8_0", revision: "v1.0" });
  assertEquals(parseHubSource("org/name@refs/pr/1"), { ...plain, revision: "refs/pr/1" });
  for (const source of ["name", "a/b/c", "../name", "org/..", "org/name@../x", "org/name@a//b", "/abs/path", "org/"]) {
    assertEquals(parseHubSource(source), null, source);
  }
});

Deno.test("hubSettings() follows huggingface_hub's variables", () => {
  const of = (variables: Record<string, string>) => hubSettings((name) => variables[name]);
  const base = { endpoint: "https://huggingface.co", token: null, isOffline: false };
  assertEquals(of({ HOME: "/home/u" }), { ...base, cacheFolder: "/home/u/.cache/huggingface/hub" });
  assertEquals(of({ HOME: "/h", XDG_CACHE_HOME: "/x" }), { ...base, cacheFolder: "/x/huggingface/hub" });
  assertEquals(of({ HF_HOME: "/f", XDG_CACHE_HOME: "/x" }), { ...base, cacheFolder: "/f/hub" });
  assertEquals(of({ HF_HUB_CACHE: "/c", HF_ENDPOINT: "http://m/", HF_TOKEN: " hf_t\n", HF_HUB_OFFLINE: "true" }), {
    endpoint: "http://m",
    cacheFolder: "/c",
    token: "hf_t",
    isOffline: true,
  });
});

Deno.test("openModel() fetches only what a model needs, once", () =>
  withHub(async (server, settings) => {
    const events: Progress[] = [];
    const model = await openModel("octavo/tiny", { settings, onProgress: (progress) => events.push(progress) });
    assertEquals(model.name, "octavo/tiny");
    assertEquals(model.source, `${settings.cacheFolder}/models--octavo--tiny/snapshots/${commit}`);
    assertEquals(Deno.readFileSync(`${model.source}/model.safetensors`), tiny["model.safetensors"]);
    assert(!server.requests.some(({ path }) => path.endsWith("README.md")));
    const last = events.at(-1)!;
    assertEquals(last.doneBytes, last.totalBytes);
    const before = server.requests.length;
    await openModel("octavo/tiny@refs/pr/1", { settings });
    assert(server.requests.slice(before).every(({ path }) => path.startsWith("/api/")));
    const offline = await openModel("octavo/tiny", { settings: { ...settings, isOffline: true } });
    assertEquals(offline.paths, model.paths);
  }));

Deno.test("openModel() fetches the shards that the index names", () =>
  withHub(async (_server, settings) => {
    const model = await openModel("octavo/sharded", { settings });
    assertEquals(model.paths.length, 3);
    model.paths.forEach((path) =>
      assertEquals(Deno.readFileSync(path), sharded[path.slice(path.lastIndexOf("/") + 1)])
    );
  }));

Deno.test("fetchFromHub() goes on where a broken download ended", () =>
  withHub(async (server, settings, folder) => {
    const source = parseHubSource("octavo/tiny")!;
    const weights = tiny["model.safetensors"]!;
    // Six small files come first; then the weights break off once, and three times without a byte.
    const small = Object.values(tiny).filter((bytes) => bytes.length < 1000).length + 1;
    server.breaks.push(...new Array<number>(small).fill(Infinity), 300_000, 0, 0, 0);
    const error = await assertRejects(() => fetchFromHub(source, { settings }), HubError);
    assert(error.message.includes(`broke off after 300000 of ${weights.length} bytes`), error.message);
    assertEquals(weightRanges(server).slice(-3), ["bytes=300000-", "bytes=300000-", "bytes=300000-"]);

    server.breaks.splice(0, Infinity, 200_000);
    const path = await fetchFromHub(source, { settings });
    assertEquals(weightRanges(server).slice(-2), ["bytes=300000-", "bytes=500000-"]);
    assertEquals(Deno.readFileSync(`${path}/model.safetensors`), weights);
    const blobs = Array.from(Deno.readDirSync(`${folder}/hub/models--octavo--tiny/blobs`), (entry) => entry.name);
    assertEquals(blobs.filter((name) => name.endsWith(".incomplete")), []);
  }));

Deno.test("fetchFromHub() starts anew when the server knows no ranges", () =>
  withHub(async (server, settings) => {
    server.ignoresRanges = true;
    server.breaks.push(Infinity, 500);
    const path = await fetchFromHub(parseHubSource("octavo/gguf:q4_k_m")!, { settings });
    server.breaks.splice(0);
    assertEquals(Deno.readFileSync(path), new Uint8Array(2000));
  }));

Deno.test("fetchFromHub() refuses content with another digest", () =>
  withHub(async (_server, settings) => {
    const source = parseHubSource("octavo/gguf:Q8_0")!;
    const blobs = `${settings.cacheFolder}/models--octavo--gguf/blobs`;
    Deno.mkdirSync(blobs, { recursive: true });
    const digest = "d7a6ab9dbe5b2b93c7c1d7e0d3a7e9d2";
    const path = await fetchFromHub(source, { settings });
    assertEquals(Deno.statSync(path).size, 3000);
    const [blob] = Array.from(Deno.readDirSync(blobs), (entry) => entry.name);
    Deno.removeSync(path);
    Deno.renameSync(`${blobs}/${blob}`, `${blobs}/${blob}.incomplete`);
    Deno.truncateSync(`${blobs}/${blob}.incomplete`, 1000);
    Deno.writeTextFileSync(`${blobs}/${blob}.incomplete`, digest);
    const error = await assertRejects(
      () => fetchFromHub(source, { settings }),
      HubError,
      "must have the sha256 digest",
    );
    assert(error.message.startsWith("Cannot fetch octavo/gguf@main"));
    await fetchFromHub(source, { settings });
  }));

Deno.test("fetchFromHub() sends the token to the hub and nowhere else", () =>
  withHub(async (server, settings) => {
    await fetchFromHub(parseHubSource("octavo/gated")!, { settings });
    for (const { path, token } of server.requests) {
      assertEquals(token, /^\/[0-9a-f]{64}$/.test(path) ? null : "hf_right", path);
    }
  }, "hf_right"));

Deno.test("fetchFromHub() says in one sentence what to do when it fails", () =>
  withHub(async (server, settings, folder) => {
    const fails = async (source: string, part: string, changed: Partial<HubSettings> = {}) => {
      const options = { settings: { ...settings, ...changed } };
      const error = await assertRejects(() => fetchFromHub(parseHubSource(source)!, options), HubError, part);
      assert(!error.message.includes("\n"));
    };
    await fails("octavo/gated", "set HF_TOKEN to a token that may read it");
    await fails("octavo/gated", "the token in HF_TOKEN may not read it", { token: "hf_wrong" });
    await fails("octavo/none", "no such repository, revision or file (HTTP status 404)");
    await fails("octavo/tiny@v9", "Cannot fetch octavo/tiny@v9");
    await fails("octavo/empty", "no model.safetensors with config.json and no .gguf file");
    await fails("octavo/gguf", "name one as octavo/gguf:QUANTIZATION, from m-Q4_K_M.gguf, m-Q8_0.gguf");
    await fails("octavo/gguf:Q2_K", "no .gguf file is named Q2_K");
    await fails("octavo/tiny", `in ${folder}/hub, and HF_HUB_OFFLINE is set`, { isOffline: true });
    const closed = Deno.listen({ port: 0, hostname: "127.0.0.1" });
    const endpoint = `http://127.0.0.1:${(closed.addr as Deno.NetAddr).port}`;
    closed.close();
    await fails("octavo/tiny", "the hub cannot be reached", { endpoint });
    await fetchFromHub(parseHubSource("octavo/tiny")!, { settings });
    await fetchFromHub(parseHubSource("octavo/tiny")!, { settings: { ...settings, endpoint } });
    assert(server.requests.length > 0);
  }));

Deno.test("openModel() says what it tried when nothing is found", async () => {
  await withTempFolder(async (folder) => {
    const missing = `${folder}/none.gguf`;
    await assertRejects(() => openModel(missing), Deno.errors.NotFound, `${missing} does not exist`);
    await assertRejects(() => openModel(folder), Deno.errors.NotFound, "expected config.json or one .gguf file");
    const settings = { endpoint: "http://127.0.0.1:1", cacheFolder: folder, token: null, isOffline: true };
    await assertRejects(() => openModel("org/none", { settings }), HubError, "nor is there a file or folder");
  });
});
