/** Log-probabilities of prompts through HTTP, beside everything else that a completion may ask for. */
import { assert, assertAlmostEquals, assertEquals } from "@std/assert";
import { serve } from "../../serve.ts";

const MODEL = decodeURIComponent(new URL("../data/tiny/base", import.meta.url).pathname);
const PROMPT = "A sheet of paper is folded three times, and what was one leaf is now eight leaves: an octavo.";

// 7 pages of 16 tokens: the sequences take turns, and preempt each other.
for (const numKvTokens of [16 * 64, 16 * 7]) {
  Deno.test(`serve() tells the same log-probabilities with all options at once, in ${numKvTokens} KV tokens`, async () => {
    await using server = await serve({
      port: 0,
      model: MODEL,
      device: "cpu",
      kvCacheDtype: "float32",
      kvCacheMemory: { bytes: numKvTokens * 1536 },
      maxModelLen: 112,
      maxNumBatchedTokens: 24,
      checkPages: true,
      log: () => {},
    });
    const complete = async (body: Record<string, unknown>) => {
      const response = await fetch(`${server.url}/v1/completions`, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ prompt: PROMPT.slice(0, 60), max_tokens: 0, echo: true, ...body }),
      });
      assertEquals(response.status, 200, await response.clone().text());
      return await response.json();
    };
    const plain = await complete({ logprobs: 2, prompt_logprobs: 2, return_token_ids: true });
    const [{ logprobs, prompt_logprobs, prompt_token_ids }] = plain.choices;
    assertEquals([logprobs.tokens.length, logprobs.token_logprobs[0], prompt_logprobs[0]], [
      prompt_token_ids.length,
      null,
      null,
    ]);
    prompt_token_ids.forEach((id: number, i: number) => {
      if (i > 0) assertAlmostEquals(prompt_logprobs[i][id].logprob, logprobs.token_logprobs[i], 1e-6);
    });
    const all = {
      max_tokens: 12,
      min_tokens: 4,
      n: 2,
      best_of: 3,
      logprobs: 2,
      prompt_logprobs: 2,
      temperature: 1,
      seed: 3,
      stop_token_ids: [40],
      bad_words: ["leaf"],
      logit_bias: { "50": 3, "60": -100 },
      allowed_token_ids: Array.from({ length: 200 }, (_, i) => i + 3),
      return_token_ids: true,
    };
    const answers = await Promise.all([complete(all), complete(all), complete({ ...all, cache_salt: "other" })]);
    for (const { choices, usage } of answers) {
      assertEquals(choices.length, 2);
      assertEquals(usage.prompt_tokens, prompt_token_ids.length);
      for (const choice of choices) {
        assertEquals(choice.prompt_logprobs, prompt_logprobs);
        const numPrompt = prompt_token_ids.length;
        assertEquals(choice.logprobs.token_logprobs.slice(0, numPrompt), logprobs.token_logprobs);
        assertEquals(choice.logprobs.tokens.length, numPrompt + choice.token_ids.length);
        assertEquals(choice.text.startsWith(PROMPT.slice(0, 60)), true);
        for (const id of choice.token_ids) assert(id >= 3 && id < 203 && id !== 60);
        assert(choice.token_ids.length >= 5 || choice.token_ids.at(-1) !== 40, "min_tokens holds the stop token off");
      }
    }
    assertEquals(answers.map(({ choices }) => choices), Array(3).fill(answers[0].choices));
  });
}
