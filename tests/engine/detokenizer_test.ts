import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { Detokenizer } from "../../engine/detokenizer.ts";
import { tokenTable } from "./_fake_model.ts";

const BYTES = Array.from({ length: 256 }, (_, byte) => [byte]);
/** Byte-level: one token for each byte, then some longer ones; 260 is special. */
const BYTE_LEVEL = tokenTable([...BYTES, "Hello", " wörld", [0x9f, 0x98], [0xe4, 0xbd], "<eos>"], { special: [260] });
/** SentencePiece: byte-fallback tokens 0 to 255, then pieces. */
const FALLBACK = tokenTable([...BYTES, " Hello", "世", "<s>"], {
  byteFallback: BYTES.keys().toArray(),
  special: [258],
  stripFirstSpace: true,
});

function pieces(table: typeof BYTE_LEVEL, ids: readonly number[], options = {}): string[] {
  const detokenizer = new Detokenizer(table, { skipSpecialTokens: true, isTextStart: false, ...options });
  return [...ids.map((id) => detokenizer.push(id)), detokenizer.flush()];
}

const utf8 = (text: string) => [...new TextEncoder().encode(text)];

Deno.test("Detokenizer.push() gives a character with the token that completes it", () => {
  assertEquals(pieces(BYTE_LEVEL, utf8("aé😀")), ["a", "", "é", "", "", "", "😀", ""]);
  assertEquals(pieces(BYTE_LEVEL, [256, 0xf0, 258, 0x80, 257]), ["Hello", "", "", "😀", " wörld", ""]);
  assertEquals(pieces(FALLBACK, [...utf8("你"), 257]), ["", "", "你", "世", ""]);
});

Deno.test("Detokenizer keeps emoji sequences, combining marks and byte order marks", () => {
  for (const text of ["👩‍👩‍👧‍👦🏳️‍🌈", "e\u0301", "\ufeffa\ufeff", "\0\u{10ffff}"]) {
    assertEquals(pieces(BYTE_LEVEL, utf8(text)).join(""), text);
    assertEquals(pieces(FALLBACK, utf8(text)).join(""), text);
  }
});

// After llama.cpp#11738: overlong forms, surrogates and values beyond U+10FFFF.
Deno.test("Detokenizer gives U+FFFD for invalid bytes as soon as they are known to be invalid", () => {
  assertEquals(pieces(BYTE_LEVEL, [0xff, 0x61]), ["\ufffd", "a", ""]);
  assertEquals(pieces(BYTE_LEVEL, [0xe4, 0xbd, 0x61]), ["", "", "\ufffda", ""]);
  assertEquals(pieces(BYTE_LEVEL, [0xc0, 0x80]), ["\ufffd", "\ufffd", ""]);
  assertEquals(pieces(BYTE_LEVEL, [0xed, 0xa0, 0x80]), ["", "\ufffd\ufffd", "\ufffd", ""]);
  assertEquals(pieces(BYTE_LEVEL, [0xf4, 0x90]), ["", "\ufffd\ufffd", ""]);
});

Deno.test("Detokenizer.flush() gives what is left of a cut character", () => {
  assertEquals(pieces(BYTE_LEVEL, [0xf0, 0x9f, 0x98]).at(-1), "\ufffd");
  assertEquals(pieces(FALLBACK, [0xf0, 0x9f, 0x98]).at(-1), "\ufffd\ufffd\ufffd");
});

Deno.test("Detokenizer gives one U+FFFD for each invalid byte-fallback token", () => {
  assertEquals(pieces(FALLBACK, [0xe4, 0xbd, 256]), ["", "", "\ufffd\ufffd Hello", ""]);
  assertEquals(pieces(FALLBACK, [0xe4, 0xbd, 0x41]), ["", "", "\ufffd\ufffdA", ""]);
  assertEquals(pieces(FALLBACK, [0xf0, 0x9f, 0xe4, 0xbd, 0xa0]), ["", "", "\ufffd\ufffd", "", "你", ""]);
});

Deno.test("Detokenizer skips special tokens, or not", () => {
  assertEquals(pieces(BYTE_LEVEL, [256, 260]).join(""), "Hello");
  assertEquals(pieces(BYTE_LEVEL, [256, 260], { skipSpecialTokens: false }).join(""), "Hello<eos>");
  // A skipped token does not cut the character around it.
  assertEquals(pieces(BYTE_LEVEL, [0xc3, 260, 0xa9]).join(""), "é");
});

Deno.test("Detokenizer cuts a dummy first space only where a text begins", () => {
  assertEquals(pieces(FALLBACK, [256, 256], { isTextStart: true }).join(""), "Hello Hello");
  assertEquals(pieces(FALLBACK, [256, 256]).join(""), " Hello Hello");
  assertEquals(pieces(FALLBACK, [258, 0x20, 0x20], { isTextStart: true }).join(""), " ");
});

Deno.test("Detokenizer gives no text for ids beyond the table", () => {
  assertEquals(pieces(BYTE_LEVEL, [261, 5000, -1]).join(""), "");
});

Deno.test("Detokenizer's texts add up to the text of all bytes decoded at once when tokens are random", () => {
  const whole = new TextDecoder("utf-8", { ignoreBOM: true });
  const lead = fc.constantFrom(0xc3, 0xe0, 0xe4, 0xed, 0xf0, 0xf4, 0xff);
  const tail = fc.constantFrom(0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbd, 0xbf);
  const token = fc.oneof(lead, tail, fc.nat(259), fc.constantFrom(0x41, 0x20));
  fc.assert(
    fc.property(fc.array(token, { maxLength: 30, size: "max" }), (ids) => {
      const bytes = ids.flatMap((
        id,
      ) => [...BYTE_LEVEL.bytes.slice(BYTE_LEVEL.offsets[id], BYTE_LEVEL.offsets[id + 1])]);
      assertEquals(pieces(BYTE_LEVEL, ids).join(""), whole.decode(Uint8Array.from(bytes)));
    }),
    { numRuns: 3000 },
  );
});

Deno.test("Detokenizer keeps every valid character of random byte-fallback tokens", () => {
  const unit = fc.oneof(
    fc.constantFrom("a", "é", "你", "😀").map(utf8),
    fc.constantFrom(0xff, 0xc0, 0x80).map((byte) => [byte]),
  );
  fc.assert(
    fc.property(fc.array(unit, { maxLength: 12 }), (units) => {
      const isValid = ({ length, 0: byte }: number[]) => length > 1 || byte! < 0x80;
      const expected = units.map((unit) => isValid(unit) ? new TextDecoder().decode(Uint8Array.from(unit)) : "\ufffd");
      const got = pieces(FALLBACK, units.flat());
      assertEquals(got.join(""), expected.join(""));
      assert(got.at(-1) === "");
    }),
    { numRuns: 1000 },
  );
});
