/**
 * A command to try the server with, for the start-up report and the status page.
 *
 * @module
 */

/** What the command depends on. */
export interface CurlExample {
  /** Where the server listens, for example "http://127.0.0.1:8000". */
  readonly origin: string;
  readonly modelName: string;
  /** Whether the model has a chat template; without one a completion is shown. */
  readonly canChat: boolean;
  readonly asksForKey: boolean;
}

/** The command, on lines of its own; it can be pasted into a shell. */
export function curlExample({ origin, modelName, canChat, asksForKey }: CurlExample): string {
  const [path, prompt] = canChat
    ? ["chat/completions", '"messages": [{"role": "user", "content": "Name three planets."}]']
    : ["completions", '"prompt": "London is the capital of", "max_tokens": 32'];
  // Small models answer better below temperature 1.
  const body = `{"model": ${JSON.stringify(modelName)}, ${prompt}, "temperature": 0.2, "stream": true}`;
  return [
    `curl -N ${reachable(origin)}/v1/${path}`,
    ...(asksForKey ? ["-H 'authorization: Bearer YOUR_KEY'"] : []),
    "-H 'content-type: application/json'",
    `-d ${shellQuoted(body)}`,
  ].join(" \\\n  ");
}

/** The address that stands for every interface is one to listen on, not one to call. */
function reachable(origin: string): string {
  return origin.replace("//0.0.0.0", "//127.0.0.1").replace("//[::]", "//[::1]");
}

function shellQuoted(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}
