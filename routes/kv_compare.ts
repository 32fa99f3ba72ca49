/**
 * `POST /v1/kv/compare`: one prompt under two KV caches, token by token. Served only when the server was started with it.
 *
 * @module
 */

import { Hono } from "hono";
import { STATUS_CODE } from "@std/http/status";
import { type ComparedToken, summarize } from "../engine/token_comparison.ts";
import type { KvCompareResult } from "../engine/types.ts";
import { readBody } from "./_body.ts";
import { finite, type TokenTexts } from "./_logprobs.ts";
import { tokenizePrompts } from "./_prompt.ts";
import { usageJson } from "./_respond.ts";
import type { Server } from "./_server.ts";
import { ApiError, badRequest } from "./errors.ts";
import { servedName } from "./models.ts";
import { DEFAULT_COMPARED_TOKENS, kvCompareBody } from "./schemas/kv_compare.ts";

/** The comparison route. */
export function kvCompareRoutes(server: Server): Hono {
  return new Hono().post("/v1/kv/compare", async (c) => {
    if (!server.enablesKvCompare) {
      throw new ApiError(
        STATUS_CODE.Forbidden,
        "Comparing KV caches is off: it takes memory and time from other requests; start the server with " +
          "--enable-kv-compare to allow it",
        { code: "kv_compare_disabled" },
      );
    }
    const leave = server.gate.enter();
    try {
      const body = await readBody(c.req.raw, { schema: kvCompareBody, refused: {}, maxBytes: server.maxBodyBytes });
      const model = servedName(server, body.model);
      const addSpecialTokens = body.add_special_tokens ?? true;
      const [prompt] = await tokenizePrompts(server, [body.prompt], { param: "prompt", addSpecialTokens });
      const request = {
        promptTokenIds: prompt!,
        maxTokens: body.max_tokens ?? DEFAULT_COMPARED_TOKENS,
        reference: body.reference ?? null,
        kvCacheDtype: body.kv_cache_dtype ?? null,
      };
      const { signal } = c.req.raw;
      const result = await server.engine.compareKv(request, signal).catch((error) => {
        // Nobody reads the answer, but a fault of the server it is not.
        throw signal.aborted ? badRequest("The client has gone away") : error;
      });
      return c.json(toJson(server.tokenTexts, { model, promptTokens: prompt!.length, result }));
    } finally {
      leave();
    }
  });
}

function toJson(
  texts: TokenTexts,
  { model, promptTokens, result }: { model: string; promptTokens: number; result: KvCompareResult },
): Record<string, unknown> {
  const { tokens } = result;
  const { klMean, klMax, top1Agreement, firstDivergence } = summarize(tokens);
  const completionTokens = tokens.filter(({ isPrompt }) => !isPrompt).length;
  return {
    object: "kv.comparison",
    model,
    reference: result.reference,
    kv_cache_dtype: result.kvCacheDtype,
    kl_mean: klMean,
    kl_max: klMax,
    top1_agreement: top1Agreement,
    first_divergence: firstDivergence,
    tokens: tokens.map((token) => tokenJson(texts, token)),
    usage: usageJson({ promptTokens, completionTokens, cachedTokens: 0 }),
  };
}

function tokenJson(texts: TokenTexts, compared: ComparedToken): Record<string, unknown> {
  const token = (id: number) => ({ token: texts.text(id), token_id: id });
  return {
    ...token(compared.tokenId),
    part: compared.isPrompt ? "prompt" : "output",
    kl: compared.kl,
    reference_logprob: finite(compared.referenceLogprob),
    logprob: finite(compared.logprob),
    reference_probability: Math.exp(compared.referenceLogprob),
    probability: Math.exp(compared.logprob),
    reference_top: token(compared.referenceTop),
    top: token(compared.top),
  };
}
