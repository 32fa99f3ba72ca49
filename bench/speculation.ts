/**
 * `deno task bench:speculation`: what guesses gain, or cost, one greedy stream. Each prompt is run with and without them
 * in turn, by the same engine, and must give the same tokens; printed as JSON are the medians of the time that the output
 * took after its first token, their ratio and how many guesses were right.
 *
 *     deno task bench:speculation [MODEL] [--new 192] [--repeats 5] [--out FILE] [options of serve]
 *
 * `--num-speculative-tokens` is 4 unless it is given.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import { samplingParams } from "../engine/sampling_params.ts";
import { startEngine } from "../engine/start_engine.ts";
import type { Engine } from "../engine/types.ts";
import { openModel } from "../models/open_model.ts";
import { parseBenchCommand } from "./_bench_command.ts";
import { benchModel } from "./_bench_model.ts";
import { percentile, round } from "./_cells.ts";
import { emitGuesses, timedRun } from "./_timed_run.ts";

const TEXT = `The harbour of Vell lies where the river Orme meets the sea. Ships from the north bring timber and
salted fish, and take back cloth, glass and wine. In winter the ice closes the upper river, and the mills stand still until
the thaw. The town has three markets: one for grain beside the old bridge, one for cattle on the meadow, and a small one for
books behind the church of Saint Anne. Every spring the guilds choose a warden, who keeps the keys of the lighthouse and
settles quarrels about the berths.`;

const CODE = `function total(items) {
  let sum = 0;
  for (const item of items) {
    if (item.price < 0) throw new RangeError("a price is negative");
    sum += item.price * item.count;
  }
  return sum;
}

function average(items) {
  if (items.length === 0) return 0;
  return total(items) / items.length;
}`;

/** What a user asks. The first two copy; the last two have little to copy but what they said themselves. */
const PROMPTS = {
  repeat: `Repeat the following text word for word.\n\n${TEXT}`,
  edit: `Rename the variable sum to result in this code, and write all of the code again.\n\n${CODE}`,
  story: "Write a story about a clockmaker who finds a letter in an old clock.",
  explain: "Explain to a child why the sky is blue in the day and red in the evening.",
} as const;

/** Runs with and without guesses in turn: what else the machine does falls on both alike. */
async function measure(engine: Engine, prompt: readonly number[], { maxTokens, repeats }: {
  maxTokens: number;
  repeats: number;
}) {
  const options = { maxTokens, temperature: 0 };
  const [guessing, plain] = [samplingParams(options, {}), samplingParams({ ...options, speculate: false }, {})];
  const { tokens } = await timedRun(engine, prompt, plain);
  const withMs: number[] = [];
  const withoutMs: number[] = [];
  const guesses = { kept: 0, rejected: 0 };
  for (let i = 0; i < repeats; i++) {
    for (const sampling of i % 2 === 0 ? [guessing, plain] : [plain, guessing]) {
      const one = await timedRun(engine, prompt, sampling);
      assertEquals(one.tokens, tokens, "guesses change no token");
      (sampling === guessing ? withMs : withoutMs).push(one.endMs - one.startMs);
      guesses.kept += one.usage.guesses!.kept;
      guesses.rejected += one.usage.guesses!.rejected;
    }
  }
  const perSecond = (times: readonly number[]) => 1000 * (tokens.length - 1) / percentile(times, 0.5);
  return {
    promptTokens: prompt.length,
    tokens: tokens.length,
    tokensPerSecond: round(perSecond(withMs), 1),
    tokensPerSecondWithout: round(perSecond(withoutMs), 1),
    ratio: round(perSecond(withMs) / perSecond(withoutMs)),
    guessedPerToken: round((guesses.kept + guesses.rejected) / (repeats * tokens.length)),
    keptShare: round(guesses.kept / (guesses.kept + guesses.rejected)),
  };
}

const { flags, options, source } = parseBenchCommand(Deno.args, ["new", "repeats", "out"]);
const maxTokens = Number(flags.new ?? 192);
const repeats = Number(flags.repeats ?? 5);
const numSpeculativeTokens = options.numSpeculativeTokens || 4;
await using files = await benchModel({ source, shape: undefined, layers: undefined });
const model = await openModel(files.source);
await using engine = await startEngine({ model, ...options, numSpeculativeTokens, numThreads: options.threads });
const results = [];
for (const [name, content] of Object.entries(PROMPTS)) {
  const text = model.chatTemplate!.render([{ role: "user", content }]);
  const prompt = model.tokenizer.encode(text, { addSpecialTokens: false });
  results.push({ name, ...await measure(engine, prompt, { maxTokens, repeats }) });
  console.error(JSON.stringify(results.at(-1)));
}
const { promptLookupMin } = options;
await emitGuesses(engine, model.name, { numSpeculativeTokens, promptLookupMin, repeats, results }, flags.out);
