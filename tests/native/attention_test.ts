import { assertExact, attend, type Heads, LIBRARIES, makeSequence, type Part } from "./_attention.ts";
import { KV_DTYPES } from "./_kv.ts";

/** SmolLM2's ratio of heads. */
const GQA3: Heads = { kvDtype: "fp8_e4m3", headDim: 64, numKvHeads: 2, numQHeads: 6 };
const UNEQUAL_SCALES = new Float32Array([0.5, 0.25, 2, 4]);
/** Around every edge of granules, pages, tiles and splits. */
const LENGTHS = [1, 15, 16, 17, 31, 33, 63, 64, 65, 511, 512, 513, 1000];

/** Every token of a new sequence as one part. */
function whole(library: (typeof LIBRARIES)[number], heads: Heads, length: number, options = {}): Part {
  return { sequence: makeSequence(library, heads, length, options), begin: 0, end: length };
}

function lastToken({ sequence }: Part): Part {
  return { sequence, begin: sequence.length - 1, end: sequence.length };
}

for (const library of LIBRARIES) {
  const test = (name: string, body: () => void) => Deno.test(`${name} (${library.isa})`, body);

  for (const kvDtype of KV_DTYPES) {
    test(`octavo_paged_attention() decodes every length within f32's error over ${kvDtype}`, () => {
      const heads = { ...GQA3, kvDtype, scales: UNEQUAL_SCALES };
      const parts = LENGTHS.map((length) => lastToken(whole(library, heads, length)));
      for (const pageSize of [16, 32, 64]) {
        for (const poison of [0x7f, 0xff]) {
          assertExact(library, heads, parts, attend(library, heads, parts, { pageSize, poison }));
        }
      }
    });

    test(`octavo_paged_attention() prefills within f32's error over ${kvDtype}`, () => {
      const heads = { ...GQA3, kvDtype, scales: UNEQUAL_SCALES };
      const parts = [1, 17, 70].map((length) => whole(library, heads, length));
      assertExact(library, heads, parts, attend(library, heads, parts));
    });
  }
}
