/**
 * One process of streaming clients for `bench/serve.ts`: reads a {@linkcode ClientJob} as JSON from stdin, keeps
 * `concurrency` requests going until its prompts are used up, and prints the times as JSON.
 *
 * @module
 */

/** What a process has to do. */
export interface ClientJob {
  readonly url: string;
  readonly modelName: string;
  readonly concurrency: number;
  readonly prompts: readonly (readonly number[])[];
  readonly maxTokens: number;
}

/** When a request was sent and its events came, in milliseconds of the system's clock. */
export interface RequestTimes {
  readonly sentMs: number;
  readonly eventMs: readonly number[];
}

const clockMs = () => performance.timeOrigin + performance.now();

async function runRequest(job: ClientJob, prompt: readonly number[]): Promise<RequestTimes> {
  const body = JSON.stringify({
    model: job.modelName,
    prompt,
    max_tokens: job.maxTokens,
    temperature: 0,
    ignore_eos: true,
    stream: true,
  });
  const headers = { "content-type": "application/json" };
  const sentMs = clockMs();
  const response = await fetch(`${job.url}/v1/completions`, { method: "POST", headers, body });
  if (!response.ok) throw new Error(`The server answered ${response.status}: ${await response.text()}`);
  const eventMs: number[] = [];
  let rest = "";
  const decoder = new TextDecoder();
  for await (const bytes of response.body!) {
    const now = clockMs();
    const lines = (rest + decoder.decode(bytes, { stream: true })).split("\n");
    rest = lines.pop()!;
    for (const line of lines) {
      if (line.startsWith("data: {")) eventMs.push(now);
      if (line.startsWith('data: {"error"')) throw new Error(`The server sent ${line}`);
    }
  }
  return { sentMs, eventMs };
}

async function runJob(job: ClientJob): Promise<RequestTimes[]> {
  const waiting = [...job.prompts];
  const done: RequestTimes[] = [];
  await Promise.all(Array.from({ length: job.concurrency }, async () => {
    for (let prompt = waiting.pop(); prompt !== undefined; prompt = waiting.pop()) {
      done.push(await runRequest(job, prompt));
    }
  }));
  return done;
}

if (import.meta.main) {
  const job = await new Response(Deno.stdin.readable).json() as ClientJob;
  console.log(JSON.stringify(await runJob(job)));
}
