/**
 * Fields that OpenAI's server or vLLM know and this one does not serve yet. Ignoring them would change the answer
 * without a word, so they are refused by name unless their value asks for nothing. Fields that nobody knows are
 * ignored, as OpenAI's server does.
 *
 * @module
 */

/** Values of a refused field that ask for nothing; null and absence always do. */
export interface RefusedField {
  /** Shown to the client, for example `"none"`. */
  readonly allowed: readonly unknown[];
}

const never: RefusedField = { allowed: [] };
const unless = (...allowed: unknown[]): RefusedField => ({ allowed });

const SHARED: Readonly<Record<string, RefusedField>> = {
  early_stopping: unless(false),
  guided_decoding_backend: never,
  guided_grammar: never,
  guided_json: never,
  guided_regex: never,
  guided_whitespace_pattern: never,
  kv_transfer_params: never,
  length_penalty: unless(1),
  logits_processors: unless([]),
  response_format: unless({ type: "text" }),
  return_tokens_as_token_ids: unless(false),
  service_tier: unless("auto", "default"),
  spaces_between_special_tokens: unless(true),
  truncate_prompt_tokens: never,
  use_beam_search: unless(false),
  vllm_xargs: unless({}),
};

/** Refused in `/v1/chat/completions`. */
export const CHAT_REFUSED_FIELDS: Readonly<Record<string, RefusedField>> = {
  ...SHARED,
  add_special_tokens: unless(false),
  audio: never,
  best_of: unless(1),
  chat_template: never,
  documents: unless([]),
  echo: unless(false),
  function_call: unless("none"),
  functions: unless([]),
  mm_processor_kwargs: unless({}),
  modalities: unless(["text"]),
  reasoning_effort: unless("none"),
  store: unless(false),
  tool_choice: unless("none"),
  tools: unless([]),
  verbosity: never,
  web_search_options: never,
};

/** Refused in `/v1/completions`. */
export const COMPLETION_REFUSED_FIELDS: Readonly<Record<string, RefusedField>> = {
  ...SHARED,
  prompt_embeds: never,
  suffix: unless(""),
};

/** Refused in `/v1/responses`. */
export const RESPONSE_REFUSED_FIELDS: Readonly<Record<string, RefusedField>> = {
  ...SHARED,
  background: unless(false),
  context_management: unless([]),
  conversation: never,
  include: unless([]),
  max_tool_calls: never,
  moderation: never,
  parallel_tool_calls: unless(true, false),
  previous_response_id: never,
  prompt: never,
  reasoning: unless({}),
  stream_options: unless({}),
  tool_choice: unless("none", "auto"),
  tools: unless([]),
  top_logprobs: unless(0),
};

/** Whether a refused field's value asks for nothing. */
export function isHarmless({ allowed }: RefusedField, value: unknown): boolean {
  if (value === null || value === undefined) return true;
  const text = smallJson(value);
  return text !== null && allowed.some((one) => JSON.stringify(one) === text);
}

/** JSON of a value that may equal an allowed one; null for what is larger than all of them. */
function smallJson(value: unknown): string | null {
  if (typeof value === "object" && value !== null && Object.keys(value).length > 1) return null;
  const inner = typeof value === "object" && value !== null ? Object.values(value) : [];
  return inner.some((one) => typeof one === "object") ? null : JSON.stringify(value);
}
