/**
 * All endpoints and their fields, from which `/openapi.json`, `/docs` and `docs/api.md` are made. Fields, limits and
 * descriptions come from the zod schemas that check the requests.
 *
 * @module
 */

import { z } from "zod";
import { chatCompletionBody } from "./schemas/chat_completion.ts";
import { completionBody } from "./schemas/completion.ts";
import { kvCompareBody } from "./schemas/kv_compare.ts";
import { responseBody } from "./schemas/response.ts";
import { detokenizeBody, tokenizeBody } from "./schemas/tokenize.ts";
import {
  CHAT_REFUSED_FIELDS,
  COMPLETION_REFUSED_FIELDS,
  type RefusedField,
  RESPONSE_REFUSED_FIELDS,
} from "./schemas/refused_fields.ts";

/** One endpoint. */
export interface EndpointInfo {
  readonly method: "get" | "post";
  /** In OpenAPI's manner, for example "/v1/models/{id}". */
  readonly path: string;
  readonly summary: string;
  readonly body?: z.ZodType;
  readonly refused?: Readonly<Record<string, RefusedField>>;
  /** Content types of a success. */
  readonly responseTypes: readonly string[];
  /** Statuses other than 200, each with the error envelope. */
  readonly errors: readonly number[];
  /** Never asks for a key. */
  readonly isOpen?: boolean;
}

const JSON_TYPE = "application/json";
const GENERATION_ERRORS = [400, 401, 404, 408, 413, 415, 429, 500, 503];

/** All endpoints. */
export const ENDPOINTS: readonly EndpointInfo[] = [
  {
    method: "post",
    path: "/v1/chat/completions",
    summary: "Continues a conversation, rendered by the model's chat template.",
    body: chatCompletionBody,
    refused: CHAT_REFUSED_FIELDS,
    responseTypes: [JSON_TYPE, "text/event-stream"],
    errors: GENERATION_ERRORS,
  },
  {
    method: "post",
    path: "/v1/completions",
    summary: "Continues one or more prompts; the choices of prompt p have indices p x n to p x n + n - 1.",
    body: completionBody,
    refused: COMPLETION_REFUSED_FIELDS,
    responseTypes: [JSON_TYPE, "text/event-stream"],
    errors: GENERATION_ERRORS,
  },
  {
    method: "post",
    path: "/v1/responses",
    summary: "OpenAI's Responses interface without what has to be kept: texts in, text out. Nothing is stored.",
    body: responseBody,
    refused: RESPONSE_REFUSED_FIELDS,
    responseTypes: [JSON_TYPE, "text/event-stream"],
    errors: GENERATION_ERRORS,
  },
  {
    method: "get",
    path: "/v1/models",
    summary: "Lists the served names of the model, with max_model_len.",
    responseTypes: [JSON_TYPE],
    errors: [401],
  },
  {
    method: "get",
    path: "/v1/models/{id}",
    summary: "One of them.",
    responseTypes: [JSON_TYPE],
    errors: [401, 404],
  },
  {
    method: "get",
    path: "/health",
    summary: "200 while the engine runs; for liveness probes.",
    responseTypes: [JSON_TYPE],
    errors: [503],
    isOpen: true,
  },
  {
    method: "get",
    path: "/health/live",
    summary: "The same.",
    responseTypes: [JSON_TYPE],
    errors: [503],
    isOpen: true,
  },
  {
    method: "get",
    path: "/health/ready",
    summary: "200 while the server takes requests and makes progress; for readiness probes and routers.",
    responseTypes: [JSON_TYPE],
    errors: [401, 503],
  },
  {
    method: "get",
    path: "/version",
    summary: "The server's version.",
    responseTypes: [JSON_TYPE],
    errors: [401],
  },
  {
    method: "post",
    path: "/tokenize",
    summary: "The token ids of a text or a conversation: {count, max_model_len, tokens, token_strs}.",
    body: tokenizeBody,
    responseTypes: [JSON_TYPE],
    errors: [400, 401, 404, 413, 415, 429],
  },
  {
    method: "post",
    path: "/detokenize",
    summary: "The text of token ids, special ones written out: {prompt}.",
    body: detokenizeBody,
    responseTypes: [JSON_TYPE],
    errors: [400, 401, 404, 413, 415, 429],
  },
  {
    method: "get",
    path: "/v1/kv",
    summary:
      "How the KV cache is stored: dtype, pages, the dtypes that requests may choose and what each has in use, and of " +
      "each layer dtype, scales and where they come from; with --kv-cache-stats also what storing costs.",
    responseTypes: [JSON_TYPE],
    errors: [401],
  },
  {
    method: "post",
    path: "/v1/kv/compare",
    summary:
      "Runs a prompt under two KV caches and tells, token by token, the KL divergence and the token's probability " +
      "under both; only where the server was started with --enable-kv-compare, one at a time.",
    body: kvCompareBody,
    responseTypes: [JSON_TYPE],
    errors: [400, 401, 403, 404, 413, 415, 429, 500, 503],
  },
  {
    method: "get",
    path: "/metrics",
    summary: "Counters, gauges and latencies in Prometheus' format, under octavo_ and vllm: names.",
    responseTypes: ["text/plain"],
    errors: [401],
  },
  {
    method: "get",
    path: "/openapi.json",
    summary: "This interface as an OpenAPI 3.1 document.",
    responseTypes: [JSON_TYPE],
    errors: [401],
  },
  { method: "get", path: "/docs", summary: "This interface for people.", responseTypes: ["text/html"], errors: [401] },
  { method: "get", path: "/", summary: "A page with the server's state.", responseTypes: ["text/html"], errors: [401] },
];

/** A JSON Schema, as far as it is read here. */
export type JsonSchema = z.core.JSONSchema.JSONSchema;

/** A request's schema as JSON Schema 2020-12, the dialect of OpenAPI 3.1. */
export function jsonSchema(body: z.ZodType): JsonSchema {
  const { $schema: _, ...schema } = z.toJSONSchema(body, { io: "input" });
  return schema;
}

/** One field of a request. */
export interface FieldInfo {
  readonly name: string;
  /** For people, for example "number, 0 to 2". */
  readonly type: string;
  readonly isRequired: boolean;
  readonly description: string;
}

/** The fields of a request, required ones first. */
export function fieldsOf(body: z.ZodType): FieldInfo[] {
  const { properties = {}, required = [] } = jsonSchema(body);
  const fields = Object.entries(properties).map(([name, schema]): FieldInfo => ({
    name,
    type: typeof schema === "boolean" ? "any" : typeText(schema),
    isRequired: required.includes(name),
    description: typeof schema === "boolean" ? "" : schema.description ?? "",
  }));
  return fields.sort((a, b) => Number(b.isRequired) - Number(a.isRequired));
}

/** A type in words, of one value or, as part of a list, of several. */
function typeText(schema: JsonSchema, isPlural = false): string {
  const s = isPlural ? "s" : "";
  if (schema.anyOf) {
    const texts = schema.anyOf.map((one) => typeText(one as JsonSchema, isPlural)).filter((text) =>
      !/^anys?$/.test(text)
    );
    return [...new Set(texts)].join(texts.length > 2 ? ", or " : " or ");
  }
  const type = [schema.type].flat().filter((one) => one !== "null")[0];
  switch (type) {
    case "number":
    case "integer": {
      const range = rangeText(schema);
      return `${type}${s}${range === "" ? "" : `${isPlural ? "" : ","} ${range}`}`;
    }
    case "array": {
      const items = typeText((schema.items ?? {}) as JsonSchema, true);
      return `list${s} of ${schema.maxItems === undefined ? "" : `up to ${schema.maxItems} `}${items}`;
    }
    case "object":
      return schema.properties ? `object${s} {${Object.keys(schema.properties).join(", ")}}` : `object${s}`;
    default:
      return schema.enum ? schema.enum.map((value) => JSON.stringify(value)).join(" or ") : `${type ?? "any"}${s}`;
  }
}

function rangeText({ minimum, exclusiveMinimum, maximum }: JsonSchema): string {
  const isUnbounded = (limit: number | undefined) => limit === undefined || Math.abs(limit) >= 2 ** 31 - 1;
  const from = exclusiveMinimum !== undefined
    ? `above ${exclusiveMinimum}`
    : isUnbounded(minimum)
    ? ""
    : `from ${minimum}`;
  const to = isUnbounded(maximum) ? "" : `to ${maximum}`;
  return [from, to].filter((text) => text !== "").join(" ");
}

/** Refused fields for people: the name, and the values that are taken nevertheless. */
export function refusedText(refused: Readonly<Record<string, RefusedField>>): string[] {
  return Object.entries(refused).map(([name, { allowed }]) => {
    return allowed.length === 0
      ? name
      : `${name} (unless ${allowed.map((value) => JSON.stringify(value)).join(" or ")})`;
  });
}
