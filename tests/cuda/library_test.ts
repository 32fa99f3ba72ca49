import { assert, assertEquals, assertMatch } from "@std/assert";
import { STATUS } from "../../ffi/enums.ts";
import { ATTENTION_CONFIG, DEVICE_INFO, KV_SHAPE } from "../../ffi/structs.ts";
import { SYMBOLS } from "../../ffi/symbols.ts";
import { findCudaTools } from "../../scripts/_cuda.ts";

// The built CUDA library, looked at without a GPU. Skipped where it has not been built: the compiler is a large download
// (deno task build --backend cuda --arch sm_90a).
const LIBRARY = new URL("../../build/cuda/liboctavo-cuda.so", import.meta.url).pathname;
const isBuilt = await Deno.stat(LIBRARY).then(() => true, () => false);
const test = (name: string, fn: () => void | Promise<void>) =>
  Deno.test({ name: isBuilt ? name : `${name} (skipped: build/cuda holds no library)`, ignore: !isBuilt, fn });

async function cuobjdump(...args: string[]): Promise<string> {
  const { stdout } = await new Deno.Command(`${await findCudaTools()}cuobjdump`, { args: [...args, LIBRARY] }).output();
  return new TextDecoder().decode(stdout);
}

/** `DecodeTile<Stored, head_dim, tiles, wide>`'s kernel. */
function kernelName(stored: string, headDim: number, tiles: number): string {
  const tile = `NS_10DecodeTileINS_${stored.length}${stored}ELi${headDim}ELi${tiles}ELb1EEE`;
  return `_ZN6octavo13decode_kernelI${tile}EEvNS_12DecodeParamsE`;
}

function count(sass: string, opcode: RegExp): number {
  return [...sass.matchAll(new RegExp(`^\\s+/\\*[0-9a-f]{4,}\\*/\\s+(?:@!?U?P[0-9T]+ )?${opcode.source}\\b`, "gm"))]
    .length;
}

function lastError({ symbols }: Deno.DynamicLibrary<typeof SYMBOLS>): string {
  const message = new Uint8Array(1024);
  return new TextDecoder().decode(message.subarray(0, symbols.octavo_last_error(message, message.length)));
}

test("the CUDA library has every function of octavo.h and checks its handles", () => {
  const library = Deno.dlopen(LIBRARY, SYMBOLS);
  try {
    const status = library.symbols.octavo_device_info(new Uint8Array(DEVICE_INFO.sizeBytes));
    if (status !== STATUS.OK) {
      assertEquals(status, STATUS.UNSUPPORTED);
      assertMatch(lastError(library), /no usable CUDA device/);
    }
    assertEquals(library.symbols.octavo_model_create(null, null, null), null);
    assertMatch(lastError(library), /config, layers and inv_freq must not be NULL/);
    assertEquals(library.symbols.octavo_step(null, null, 0), STATUS.INVALID_ARGUMENT);
    assertEquals(library.symbols.octavo_engine_scratch_bytes(null, null), 0);
  } finally {
    library.close();
  }
});

test("openDevice() says which CUDA version an old driver offers, and which is needed", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const source = new URL("fake_driver.c", import.meta.url).pathname;
    const build = ["-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", `${folder}/libcuda.so.1`, source];
    assert((await new Deno.Command("cc", { args: build }).output()).success);
    const code = `import { openDevice } from "${new URL("../../ffi/library.ts", import.meta.url)}";
      await openDevice("cuda").then(() => console.log("opened"), (error) => console.log(error.message));`;
    const { stdout } = await new Deno.Command(Deno.execPath(), {
      args: ["eval", code],
      env: { OCTAVO_LIB: LIBRARY, LD_LIBRARY_PATH: folder },
    }).output();
    assertEquals(
      new TextDecoder().decode(stdout).trim(),
      'Cannot run on device "cuda": the NVIDIA driver is too old, it offers CUDA 12.8 and 13.0 is needed',
    );
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

test("octavo_paged_attention() of the CUDA library checks what every build checks", () => {
  const library = Deno.dlopen(LIBRARY, SYMBOLS);
  try {
    const shape = { kv_dtype: 3, page_size: 16, num_pages: 4, num_kv_heads: 2, head_dim: 64, page_stride: 0 };
    const config = {
      num_seqs: 1,
      num_tokens: 1,
      num_q_heads: 4,
      max_pages_per_seq: 4,
      sliding_window: 0,
      num_threads: 0,
      softmax_scale: 0.125,
      logit_softcap: 0,
      q_dtype: 0,
      max_query_len: 1,
      reuse_plan: 0,
      reserved: 0,
    };
    const refused: [Partial<typeof config>, RegExp][] = [
      [{ num_seqs: 0 }, /num_seqs must be at least 1, found 0/],
      [{ num_seqs: 2 }, /num_tokens must be at least num_seqs 2, found 1/],
      [{ num_q_heads: 3 }, /num_q_heads must be a multiple of num_kv_heads 2/],
      [{ softmax_scale: 0 }, /softmax_scale must be finite and above 0/],
      [{ q_dtype: 2 }, /q_dtype must be OCTAVO_F32/],
      [{ reuse_plan: 2 }, /reuse_plan must be 0 or 1, found 2/],
      [{ reserved: 7 }, /reserved must be 0, found 7/],
    ];
    for (const [change, message] of refused) {
      const encoded = ATTENTION_CONFIG.encode({ ...config, ...change });
      const status = library.symbols.octavo_paged_attention(
        KV_SHAPE.encode(shape),
        encoded,
        ...Array<null>(9).fill(null) as [null, null, null, null, null, null, null, null, null],
      );
      assertEquals(status, STATUS.INVALID_ARGUMENT);
      assertMatch(lastError(library), message);
    }
  } finally {
    library.close();
  }
});

/** Attention's kernels in the library, or for one card, with more than so many bytes of stack. */
async function kernelsWithStack(bytes: number, ...card: string[]): Promise<string[]> {
  const usage = await cuobjdump("--dump-resource-usage", ...card);
  const kernels = [
    ...usage.matchAll(/Function (\S*(?:decode|prefill_mma|prefill_wgmma)_kernel\S*):\s+REG:(\d+) STACK:(\d+)/g),
  ];
  return kernels.filter(([, , , stack]) => Number(stack) > bytes).map(([, name]) => name!);
}

test("attention kernels spill on Blackwell at most six registers, on Hopper where four warpgroups share them", async () => {
  const isShared = (name: string) => /PrefillWgmmaTileILb[01]ELi64E/.test(name); // head_dim 64: some words
  for (const card of ["sm_80", "sm_89"]) assertEquals(await kernelsWithStack(0, "-arch", card), []);
  assertEquals((await kernelsWithStack(0, "-arch", "sm_90a")).filter((name) => !isShared(name)), []);
  assertEquals((await kernelsWithStack(24)).filter((name) => !isShared(name)), []);
  const usage = await cuobjdump("--dump-resource-usage");
  for (const kernel of ["decode", "prefill_mma", "prefill_wgmma"]) assertMatch(usage, new RegExp(`${kernel}_kernel`));
});

test("the FP8 decode kernel converts in registers, multiplies in f16 and copies in bulk", async () => {
  const sass = await cuobjdump("-sass", "-arch", "sm_90a", "-fun", kernelName("StoredE4m3", 128, 1));
  if (!sass.includes("Function")) return; // built for another card
  // 32 keys x 128 dims of K and V are 8192 elements: 2 a conversion and lane; 64 more for Q, P and the output.
  const conversions = count(sass, /F2FP\.F16\.E4M3\.UNPACK_B/);
  assertEquals(conversions, 128);
  assertEquals(count(sass, /HMMA\.16816\.F32/), 32);
  assertEquals(count(sass, /MOVM\.16\.MT88/), 4);
  assertEquals(count(sass, /LDSM\.16\.M88\.4/), 8);
  assertEquals(count(sass, /LDSM\.16\.MT88\.4/), 8);
  assert(count(sass, /UBLKCP\.S\.G/) > 0, "no bulk copy");
  assertEquals(count(sass, /(?:LDL|STL)/), 0);
});

test("the fast prefill kernel multiplies by warpgroups, side by side, and copies in bulk", async () => {
  const tile = "NS_16PrefillWgmmaTileILb1ELi128EEE";
  const name = `_ZN6octavo20prefill_wgmma_kernelI${tile}EEvNS_13PrefillParamsE`;
  const sass = await cuobjdump("-sass", "-arch", "sm_90a", "-fun", name);
  if (!sass.includes("Function")) return; // built for another card
  // Scores of 128 dims in steps of 16: an item's first, in the loop, the next item's. Output of 128 keys: in the loop, an
  // item's last, the block's last, these two of 64 keys too. Serialised by the assembler, each would be waited for.
  assertEquals(count(sass, /HGMMA\.64x128x16\.F32\.BF16/), 6 * 8 + 2 * 4);
  assert(count(sass, /WARPGROUP\.DEPBAR\.LE/) <= 5, "products wait for each other");
  assert(count(sass, /UBLKCP\.S\.G/) > 0, "no bulk copy");
  assertEquals(count(sass, /(?:LDL|STL)/), 0);
});
