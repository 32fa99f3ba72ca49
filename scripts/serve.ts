/**
 * `deno task serve [MODEL] [flags]`: builds the native library if its sources changed, fetches the model if it is not
 * there, then runs `mod.ts serve` in a process of its own that may touch only what serving needs.
 *
 * @module
 */

import { fetchDemoModel } from "../models/demo.ts";
import { fetchFromHub, parseHubSource } from "../models/hub.ts";
import { progressPrinter } from "../models/progress.ts";
import { type CommandLine, parseCommandLine, VARIABLES } from "../options.ts";
import { toPath } from "./_command.ts";
import { build } from "./build.ts";

/** The model's path; fetched here, so that the server itself needs neither network nor programs. */
async function prepareModel(source: string | undefined): Promise<string> {
  const onProgress = progressPrinter();
  if (source === undefined) return await fetchDemoModel({ onProgress });
  const isPath = await Deno.stat(source).then(() => true, () => false);
  const hubSource = isPath || source.endsWith(".gguf") ? null : parseHubSource(source);
  return hubSource === null ? source : await fetchFromHub(hubSource, { onProgress });
}

/** Everything the server may do: call the library, read code and model, listen on its address. */
function permissions({ options }: CommandLine, model: string): string[] {
  const project = toPath(new URL("..", import.meta.url));
  const library = Deno.env.get("OCTAVO_LIB");
  return [
    `--allow-ffi=${[`${project}build`, ...(library ? [library] : [])].join(",")}`,
    `--allow-read=${[project, model, ...(library ? [library] : [])].join(",")}`,
    `--allow-env=${[...VARIABLES, "OCTAVO_LIB"].join(",")}`,
    `--allow-net=${options.host.includes(":") ? `[${options.host}]` : options.host}:${options.port}`,
  ];
}

/** Runs the server until it ends. @returns Its exit code. */
async function runServer(args: readonly string[]): Promise<number> {
  const commandLine = parseCommandLine(args, (name) => Deno.env.get(name));
  const [source, ...rest] = commandLine.positionals;
  const info = commandLine.help || commandLine.version || rest.length > 0;
  const main = toPath(new URL("../mod.ts", import.meta.url));
  if (info) return await run([`--allow-env=${VARIABLES.join(",")}`, main, "serve", ...args]);
  await build({ backend: "cpu" });
  const model = await prepareModel(source);
  const flags = args.filter((arg) => arg !== source);
  const name = source !== undefined && source !== model && !commandLine.given.has("servedModelName")
    ? ["--served-model-name", source]
    : [];
  return await run([...permissions(commandLine, model), main, "serve", model, ...flags, ...name]);
}

async function run(args: string[]): Promise<number> {
  const server = new Deno.Command(Deno.execPath(), { args: ["run", "--frozen", "--no-prompt", ...args] }).spawn();
  // A terminal's Ctrl-C reaches both processes; a SIGTERM to this one has to be handed on.
  const onSigint = () => {};
  const onSigterm = () => server.kill("SIGTERM");
  Deno.addSignalListener("SIGINT", onSigint);
  Deno.addSignalListener("SIGTERM", onSigterm);
  return (await server.status).code;
}

try {
  Deno.exit(await runServer(Deno.args));
} catch (error) {
  console.error(`octavo: ${(error as Error).message}`);
  Deno.exit(1);
}
