/**
 * `docs/api.md`: the reference as Markdown.
 *
 * @module
 */

import { DEFAULT_MAX_BODY_BYTES } from "./_server.ts";
import { MAX_DEPTH, MAX_OTHER_VALUES, MAX_VALUES } from "./_body.ts";
import { MAX_CHOICES } from "./completions.ts";
import { type EndpointInfo, ENDPOINTS, fieldsOf, refusedText } from "./reference.ts";

/** The whole page. */
export function apiMarkdown(): string {
  return [INTRODUCTION, ...ENDPOINTS.map(endpointSection)].join("\n\n") + "\n";
}

const INTRODUCTION = `# HTTP interface

OpenAI's wire format. This page is made from the schemas that check the requests
(\`deno task docs\`); a test keeps it current.

- Bodies are JSON in UTF-8 with \`content-type: application/json\`, at most ${DEFAULT_MAX_BODY_BYTES} bytes by default, and at
  most ${MAX_VALUES} values, of which ${MAX_OTHER_VALUES} beside the prompt, nested at most ${MAX_DEPTH} deep.
- \`null\` is the same as absent. Fields that nobody knows are ignored. Fields that OpenAI or vLLM know and Octavo does not serve
  yet are refused with a 400 that names them. Of \`user\` no use is made.
- Errors are \`{"error": {"message", "type", "param", "code"}}\`: 400 (\`context_length_exceeded\`, \`unsupported_parameter\`), 401
  (\`invalid_api_key\`), 403 (\`kv_compare_disabled\`), 404 (\`model_not_found\`), 405, 408 (\`deadline_exceeded\`), 413, 415, 429 with \`Retry-After\`, 500, 503 with \`Retry-After\`. Where trying
  again is pointless, \`x-should-retry: false\` says so.
- \`x-request-id\` is echoed, or made.
- With a key set, every route but \`/health\` and \`/health/live\` asks for \`Authorization: Bearer KEY\`. The keys of
  \`--api-key-file\` have shares of the engine: docs/scheduling.md.
- Streams are server-sent events. A chat choice's first chunk has the role, its last one the finish reason; then comes the usage
  when asked for, then \`[DONE]\`. A comment is sent every 15 s of silence. An error after the start is an event with the error
  envelope, the last one. A reader that leaves more than 1 MiB unread is cut off.
- Where the server [guesses](scheduling.md#guesses), the usage has \`completion_tokens_details\`: of all tokens guessed, those that
  were output (\`accepted_prediction_tokens\`) and those that were not (\`rejected_prediction_tokens\`, which
  \`completion_tokens\` does not count). The running usage of \`continuous_usage_stats\` leaves them out.
- Prompt and output must fit the model's context: longer ones are refused, never cut. A completion request may have at most
  ${MAX_CHOICES} choices.
- Log-probabilities of -infinity are sent as -9999. \`stop_reason\` is the stop text or token id that ended a choice, \`"deadline"\` where finish_reason \`"length"\` means the request's deadline, else null.`;

function endpointSection({ method, path, summary, body, refused, isOpen }: EndpointInfo): string {
  const lines = [`## ${method.toUpperCase()} ${path}`, "", summary + (isOpen ? " Never asks for a key." : "")];
  if (body !== undefined) lines.push("");
  for (const { name, type, isRequired, description } of body === undefined ? [] : fieldsOf(body)) {
    lines.push(`- \`${name}\` (${type}${isRequired ? "; required" : ""}): ${description}`);
  }
  if (refused !== undefined) {
    lines.push("", `Refused for now: ${refusedText(refused).map((text) => text.replace(/^\w+/, "`$&`")).join(", ")}.`);
  }
  return lines.join("\n");
}
