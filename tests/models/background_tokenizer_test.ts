import { assertEquals, assertStringIncludes } from "@std/assert";
import { BackgroundTokenizer, SHORT_TEXT } from "../../models/background_tokenizer.ts";
import { openModel } from "../../models/open_model.ts";
import type { Tokenizer } from "../../models/types.ts";
import { dataPath } from "./_fixtures.ts";

const PLACE = { source: dataPath("tiny/base"), loadFormat: "dummy" } as const;
const { tokenizer } = await openModel(PLACE.source, { loadFormat: "dummy" });
const SHORT = "a text of \u{1F600} and <|im_end|>";
const LONG = `${SHORT}\n`.repeat(2000);

/** A tokenizer that counts the characters it encodes. */
function counting(): Tokenizer & { numChars: number } {
  const counted = {
    ...tokenizer,
    numChars: 0,
    encode: (text: string, options?: Parameters<Tokenizer["encode"]>[1]) => {
      counted.numChars += text.length;
      return tokenizer.encode(text, options);
    },
  };
  return counted;
}

Deno.test("BackgroundTokenizer.encode() gives long texts to its Worker, and what the tokenizer gives", async () => {
  const local = counting();
  using background = new BackgroundTokenizer(local, PLACE);
  await background.start();
  for (const options of [{}, { addSpecialTokens: false }, { parseSpecialTokens: false }]) {
    assertEquals(await background.encode(LONG, options), tokenizer.encode(LONG, options));
  }
  assertEquals(local.numChars, 0);
  assertEquals(await background.encode(SHORT), tokenizer.encode(SHORT));
  assertEquals(local.numChars, SHORT.length);
});

Deno.test("BackgroundTokenizer.encode() keeps texts of medium length from waiting for longer ones", async () => {
  const local = counting();
  using background = new BackgroundTokenizer(local, PLACE);
  await background.start();
  const medium = LONG.slice(0, SHORT_TEXT + 1);
  const order: string[] = [];
  const texts = [["long", LONG], ["medium", medium], ["longer", LONG + LONG]] as const;
  await Promise.all(texts.map(async ([name, text]) => {
    assertEquals(await background.encode(text), tokenizer.encode(text), name);
    order.push(name);
  }));
  assertEquals(order, ["medium", "long", "longer"]);
  assertEquals(local.numChars, medium.length);
});

Deno.test("BackgroundTokenizer.encode() encodes by itself until its Worker is ready, and after its end", async () => {
  const local = counting();
  const background = new BackgroundTokenizer(local, PLACE);
  assertEquals(await background.encode(LONG), tokenizer.encode(LONG));
  assertEquals(local.numChars, LONG.length);
  await background.start();
  const asked = background.encode(LONG);
  background[Symbol.dispose]();
  assertEquals(await asked, tokenizer.encode(LONG));
  assertEquals(await background.encode(LONG), tokenizer.encode(LONG));
  assertEquals(local.numChars, 3 * LONG.length);
});

Deno.test("BackgroundTokenizer says so when its Worker fails, and goes on without", async () => {
  const warnings: string[] = [];
  const place = { source: dataPath("tiny/nothing"), loadFormat: "auto" } as const;
  using background = new BackgroundTokenizer(counting(), place, (message) => warnings.push(message));
  await background.start();
  assertEquals(await background.encode(LONG), tokenizer.encode(LONG));
  assertEquals(warnings.length, 1);
  assertStringIncludes(warnings[0]!, "the tokenizer's Worker failed");
});
