/**
 * Request bodies: read up to a bound, parsed, and checked against a schema. Whatever is wrong becomes a 4xx that names
 * the field and shows the value.
 *
 * @module
 */

import { STATUS_CODE } from "@std/http/status";
import type { z } from "zod";
import { ApiError, badRequest } from "./errors.ts";
import { isHarmless, type RefusedField } from "./schemas/refused_fields.ts";

/** Values (of any kind, nested ones counted) that a body may hold. */
export const MAX_VALUES = 1_048_576;
/** Values that it may hold beside its prompt, whose token ids are checked in a cheaper way. */
export const MAX_OTHER_VALUES = 65_536;
/** How deep a body's values may be nested. */
export const MAX_DEPTH = 32;
const MAX_SHOWN = 80;

/** What a body is read with. */
export interface BodyOptions<S extends z.ZodType> {
  readonly schema: S;
  readonly refused: Readonly<Record<string, RefusedField>>;
  readonly maxBytes: number;
}

/**
 * Reads a request's JSON body.
 *
 * @throws {ApiError} 413, 415, or 400 for malformed JSON, values out of range and fields that are not supported yet.
 */
export async function readBody<S extends z.ZodType>(request: Request, options: BodyOptions<S>): Promise<z.infer<S>> {
  const text = await readText(request, options.maxBytes);
  checkText(text);
  const raw = parseJson(text);
  checkOtherValues(raw);
  checkRefused(raw, options.refused);
  const result = options.schema.safeParse(raw);
  if (!result.success) throw toBadRequest(result.error.issues, raw);
  return result.data;
}

async function readText(request: Request, maxBytes: number): Promise<string> {
  const type = request.headers.get("content-type") ?? "";
  if (!/^application\/(?:[\w.-]+\+)?json\s*(?:;|$)/i.test(type)) {
    throw new ApiError(
      STATUS_CODE.UnsupportedMediaType,
      `Expected a body of type application/json, received ${type === "" ? "no content-type header" : show(type)}`,
    );
  }
  const tooLarge = (found: string) =>
    new ApiError(STATUS_CODE.ContentTooLarge, `The body may have at most ${maxBytes} bytes, received ${found}`);
  const declared = Number(request.headers.get("content-length") ?? 0);
  if (declared > maxBytes) throw tooLarge(String(declared));

  const decoder = new TextDecoder("utf-8", { fatal: true });
  let text = "";
  let numBytes = 0;
  try {
    for await (const chunk of request.body ?? []) {
      numBytes += chunk.length;
      if (numBytes > maxBytes) throw tooLarge("more");
      text += decoder.decode(chunk, { stream: true });
    }
    return text + decoder.decode();
  } catch (error) {
    if (error instanceof ApiError) throw error;
    throw badRequest("Cannot read the body: expected JSON in UTF-8, received a broken or aborted text", {
      cause: error,
    });
  }
}

function parseJson(text: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw badRequest(`Cannot parse the body as JSON: ${error instanceof Error ? error.message : "malformed"}`);
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw badRequest(`Expected the body to be a JSON object, received ${show(value)}`);
  }
  return value as Record<string, unknown>;
}

/**
 * Bounds what parsing and checking may cost: a text of some megabytes can hold millions of values or levels. Separators
 * are counted outside of strings; whether they stand where they may is the parser's business.
 */
function checkText(text: string): void {
  let depth = 0;
  let numValues = 1;
  let numMembers = 0;
  for (let i = 0; i < text.length; i++) {
    const char = text[i];
    if (char === '"') i = endOfString(text, i);
    else if (char === ",") numValues++;
    else if (char === ":") numMembers++;
    else if (char === "]" || char === "}") depth--;
    else if (char === "[" || char === "{") {
      numValues++;
      if (++depth > MAX_DEPTH) throw badRequest(`The body's values may be nested at most ${MAX_DEPTH} deep`);
    }
    if (numValues > MAX_VALUES) throw badRequest(`The body may hold at most ${MAX_VALUES} values`);
    if (numMembers > MAX_OTHER_VALUES) throw tooManyOthers();
  }
}

/** Index of the quote that ends the string which begins at `start`; the text's length without one. */
function endOfString(text: string, start: number): number {
  for (let end = text.indexOf('"', start + 1); end >= 0; end = text.indexOf('"', end + 1)) {
    let numBackslashes = 0;
    while (text[end - 1 - numBackslashes] === "\\") numBackslashes++;
    if (numBackslashes % 2 === 0) return end;
  }
  return text.length;
}

/** Bounds what the schema's check may cost: it makes an error for each wrong value. */
function checkOtherValues(body: Record<string, unknown>): void {
  const { prompt: _prompt, tokens: _tokens, ...others } = body;
  const open: object[] = [others];
  let numValues = 0;
  for (let next = open.pop(); next !== undefined; next = open.pop()) {
    const values = Object.values(next);
    numValues += values.length;
    if (numValues > MAX_OTHER_VALUES) throw tooManyOthers();
    for (const value of values) if (typeof value === "object" && value !== null) open.push(value);
  }
}

function tooManyOthers(): ApiError {
  return badRequest(`The body may hold at most ${MAX_OTHER_VALUES} values beside its prompt`);
}

function checkRefused(body: Record<string, unknown>, refused: Readonly<Record<string, RefusedField>>): void {
  for (const [name, rule] of Object.entries(refused)) {
    if (!Object.hasOwn(body, name) || isHarmless(rule, body[name])) continue;
    const allowed = rule.allowed.map((value) => JSON.stringify(value)).join(" or ");
    const advice = allowed === "" ? "leave it out" : `leave it out or send ${allowed}`;
    throw badRequest(`"${name}" is not supported yet, received ${show(body[name])}; ${advice}`, {
      param: name,
      code: "unsupported_parameter",
    });
  }
}

function toBadRequest(issues: readonly z.core.$ZodIssue[], body: unknown): ApiError {
  const { path, message } = deepest(issues[0]!);
  const found = path.reduce<unknown>((value, key) => {
    return typeof value === "object" && value !== null ? Reflect.get(value, key) : undefined;
  }, body);
  const name = path.map((key, i) => typeof key === "number" ? `[${key}]` : `${i > 0 ? "." : ""}${String(key)}`).join(
    "",
  );
  const received = found === undefined ? "it is missing" : `received ${show(found)}`;
  return badRequest(`Invalid "${name}": ${message}, ${received}`, { param: name });
}

/** Of a union's branches, the one that got further into the value says what is wrong; else the union's own text. */
function deepest(issue: z.core.$ZodIssue): { path: PropertyKey[]; message: string } {
  if (issue.code === "invalid_union") {
    for (const branch of issue.errors) {
      const inner = branch[0];
      if (inner !== undefined && inner.path.length > 0) {
        const { path, message } = deepest(inner);
        return { path: [...issue.path, ...path], message };
      }
    }
  }
  if (issue.code === "invalid_key") return { path: issue.path, message: issue.issues[0]?.message ?? issue.message };
  return {
    path: issue.path,
    message: lowerFirst(issue.message.replace(/^Invalid input: /, "").replace(/, received .*/, "")),
  };
}

function lowerFirst(text: string): string {
  return text.charAt(0).toLowerCase() + text.slice(1);
}

/** A value as a message shows it: never longer than a line, and never costly however large or deep the value is. */
function show(value: unknown): string {
  if (typeof value === "number") return String(value);
  if (typeof value === "string") return cut(JSON.stringify(value.slice(0, MAX_SHOWN)));
  if (typeof value !== "object" || value === null) return String(value);
  const inner = Object.values(value);
  const isSmall = inner.length <= 8 && inner.every((one) => typeof one !== "object" && String(one).length <= MAX_SHOWN);
  if (isSmall) return cut(JSON.stringify(value));
  return Array.isArray(value) ? `a list of ${inner.length}` : `an object with ${inner.length} fields`;
}

function cut(text: string): string {
  return text.length > MAX_SHOWN ? `${text.slice(0, MAX_SHOWN)}...` : text;
}
