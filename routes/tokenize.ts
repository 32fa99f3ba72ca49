/**
 * `POST /tokenize` and `POST /detokenize`, in vLLM's format: what a prompt costs before it is sent.
 *
 * @module
 */

import { Hono } from "hono";
import type { z } from "zod";
import { readBody } from "./_body.ts";
import { renderPrompt } from "./_chat_prompt.ts";
import { encodeText } from "./_prompt.ts";
import type { Server } from "./_server.ts";
import { badRequest } from "./errors.ts";
import { servedName } from "./models.ts";
import { detokenizeBody, tokenizeBody } from "./schemas/tokenize.ts";

/** The tokenizer routes. */
export function tokenizeRoutes(server: Server): Hono {
  const route = <S extends z.ZodType>(schema: S, answer: (body: z.infer<S>) => unknown) => async (request: Request) => {
    const leave = server.gate.enter();
    try {
      return Response.json(
        await answer(await readBody(request, { schema, refused: {}, maxBytes: server.maxBodyBytes })),
      );
    } finally {
      leave();
    }
  };
  const toTokens = route(tokenizeBody, (body) => tokenize(server, body));
  const toText = route(detokenizeBody, (body) => detokenize(server, body));
  return new Hono().post("/tokenize", (c) => toTokens(c.req.raw)).post("/detokenize", (c) => toText(c.req.raw));
}

async function tokenize(server: Server, body: z.infer<typeof tokenizeBody>): Promise<unknown> {
  servedName(server, body.model);
  const { prompt = null, messages = null } = body;
  if ((prompt === null) === (messages === null)) {
    throw badRequest('Expected either "prompt" or "messages"', { param: "prompt" });
  }
  const text = messages === null ? prompt! : renderPrompt(server, { ...body, messages });
  const tokens = await encodeText(server, text, {
    param: messages === null ? "prompt" : "messages",
    addSpecialTokens: body.add_special_tokens ?? messages === null,
  });
  return {
    count: tokens.length,
    max_model_len: server.engine.info.maxModelLen,
    tokens,
    token_strs: body.return_token_strs === true ? tokens.map((id) => server.tokenizer.idToToken(id) ?? "") : null,
  };
}

function detokenize(server: Server, { model, tokens }: z.infer<typeof detokenizeBody>): unknown {
  servedName(server, model);
  const { vocabSize } = server.tokenizer;
  const wrong = tokens.find((id) => id >= vocabSize);
  if (wrong !== undefined) {
    throw badRequest(`Invalid "tokens": expected ids below ${vocabSize}, received ${wrong}`, { param: "tokens" });
  }
  return { prompt: server.tokenizer.decode(tokens, { skipSpecialTokens: false }) };
}
