import { assertEquals, assertMatch, assertRejects, assertStringIncludes, assertThrows } from "@std/assert";
import { Library, LibraryError, NativeError, openDevice, openLibrary } from "../../ffi/library.ts";
import { ABI_VERSION, findLibrary, sha256 } from "../../ffi/library_search.ts";

/** Runs body with OCTAVO_LIB set to a value, or unset. */
async function withLib(value: string | null, body: () => Promise<void>) {
  const before = Deno.env.get("OCTAVO_LIB");
  if (value === null) Deno.env.delete("OCTAVO_LIB");
  else Deno.env.set("OCTAVO_LIB", value);
  try {
    await body();
  } finally {
    if (before === undefined) Deno.env.delete("OCTAVO_LIB");
    else Deno.env.set("OCTAVO_LIB", before);
  }
}

/** A project folder with one library folder in it. */
async function projectWith(folder: string, manifest: Record<string, unknown>, bytes = new Uint8Array([1, 2, 3])) {
  const project = await Deno.makeTempDir();
  await Deno.mkdir(`${project}/${folder}`, { recursive: true });
  await Deno.writeFile(`${project}/${folder}/lib.so`, bytes);
  await Deno.writeTextFile(`${project}/${folder}/octavo.json`, JSON.stringify({ file: "lib.so", ...manifest }));
  return { path: project, url: new URL(`file://${project}/`) };
}

const GOOD = { abi_version: ABI_VERSION, sha256: await sha256(new Uint8Array([1, 2, 3])) };

Deno.test("findLibrary() takes OCTAVO_LIB first", () =>
  withLib("/somewhere/else.so", async () => {
    assertEquals((await findLibrary("cpu")).path, "/somewhere/else.so");
  }));

Deno.test("findLibrary() finds the build folder and installed packages", () =>
  withLib(null, async () => {
    for (const folder of ["build/cpu", `node_modules/@octavo/cpu-${Deno.build.os}-${Deno.build.arch}`]) {
      const project = await projectWith(folder, GOOD);
      assertEquals((await findLibrary("cpu", project.url)).path, `${project.path}/${folder}/lib.so`);
      await Deno.remove(project.path, { recursive: true });
    }
  }));

Deno.test("findLibrary() refuses a wrong hash or ABI version and says why", () =>
  withLib(null, async () => {
    for (
      const [manifest, reason] of [
        [{ ...GOOD, sha256: "00" }, /SHA-256 [0-9a-f]{64}, its octavo.json says 00/],
        [{ ...GOOD, abi_version: 99 }, /ABI version 99, needed \d+/],
      ] as const
    ) {
      const project = await projectWith("build/cpu", manifest);
      const { path, searched } = await findLibrary("cpu", project.url);
      assertEquals(path, null);
      assertMatch(searched.join("\n"), reason);
      await Deno.remove(project.path, { recursive: true });
    }
  }));

Deno.test("openLibrary() names every place searched and the command that builds it", () =>
  withLib(null, async () => {
    const project = await Deno.makeTempDir();
    const { searched } = await findLibrary("cpu", new URL(`file://${project}/`));
    assertStringIncludes(searched.join("\n"), "OCTAVO_LIB: not set");
    assertStringIncludes(searched.join("\n"), `${project}/build/cpu/: not there`);
    assertStringIncludes(searched.join("\n"), "node_modules/@octavo/cpu-");
    await Deno.remove(project);
  }));

Deno.test("Library() refuses a file that is no library, and one of another ABI version", async () => {
  const folder = await Deno.makeTempDir();
  await Deno.writeTextFile(`${folder}/text.so`, "not a library");
  assertStringIncludes(assertThrows(() => new Library(`${folder}/text.so`), LibraryError).message, "text.so");
  assertThrows(() => new Library(`${folder}/missing.so`), LibraryError);
  await Deno.writeTextFile(`${folder}/other.cpp`, 'extern "C" int octavo_abi_version() { return 99; }');
  const { success } = await new Deno.Command("g++", {
    args: ["-shared", "-fPIC", "-o", `${folder}/other.so`, `${folder}/other.cpp`],
  }).output();
  assertEquals(success, true);
  const error = assertThrows(() => new Library(`${folder}/other.so`), LibraryError);
  assertStringIncludes(error.message, "its ABI version is 99");
  assertStringIncludes(error.message, "deno task build");
  await Deno.remove(folder, { recursive: true });
});

Deno.test("Library.deviceInfo() says what the machine is", async () => {
  using library = await openLibrary("cpu");
  const info = library.deviceInfo();
  assertEquals(info.backend, "cpu");
  assertMatch(info.isa, /^(portable|avx2|avx512|avx512_vnni)$/);
  assertEquals(info.numCores >= 1 && info.memoryBytes > info.memoryFreeBytes && info.memoryFreeBytes > 0, true);
});

Deno.test("Library refuses calls after close()", async () => {
  const library = await openLibrary("cpu");
  library.close();
  library.close();
  assertThrows(() => library.deviceInfo(), TypeError, "Cannot use a closed native library");
  assertThrows(() => library.check(1), TypeError, "Cannot use a closed native library");
});

Deno.test("openLibrary() says which file OCTAVO_LIB names when it is not there", () =>
  withLib("/no/such/library.so", async () => {
    const error = await assertRejects(() => openLibrary("cpu"), LibraryError);
    assertStringIncludes(error.message, "/no/such/library.so");
  }));

Deno.test("openDevice() falls back to the CPU and says why", async () => {
  const path = (await findLibrary("cpu")).path!;
  await withLib(null, async () => {
    const cpu = () => Promise.resolve(new Library(path));
    const open = (cuda: () => Promise<Library>): typeof openLibrary => (backend) => backend === "cuda" ? cuda() : cpu();
    const reasons: [Error, RegExp][] = [
      [
        new LibraryError("not there"),
        /no CUDA library is there that fits; build it with: deno task build --backend cuda/,
      ],
      [new NativeError("no usable CUDA device: no driver is installed", 4), /^no driver is installed$/],
    ];
    for (const [error, whyCpu] of reasons) {
      const opened = await openDevice("auto", open(() => Promise.reject(error)));
      assertEquals(opened.library.deviceInfo().backend, "cpu");
      assertMatch(opened.whyCpu!, whyCpu);
      opened.library.close();
    }
    const none = () => Promise.reject(reasons[1]![0]);
    const asked = await assertRejects(() => openDevice("cuda", open(none)), NativeError);
    assertEquals(asked.message, 'Cannot run on device "cuda": no driver is installed');
    const other = await assertRejects(() => openDevice("cuda", open(cpu)), LibraryError);
    assertStringIncludes(other.message, `Cannot run on device "cuda": the library "${path}" is for "cpu"`);
    await assertRejects(
      () => openDevice("auto", open(() => Promise.reject(new TypeError("a bug")))),
      TypeError,
      "a bug",
    );
  });
});
