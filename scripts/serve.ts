/**
 * `deno task serve [MODEL] [flags]`: builds the native library if its sources changed, fetches the model if it is not
 * there, then runs `mod.ts serve` in a process of its own that may touch only what serving needs.
 *
 * @module
 */

import { dirname, join, resolve } from "node:path";
import { fetchDemoModel } from "../models/demo.ts";
import { fetchFromHub, parseHubSource } from "../models/hub.ts";
import { progressPrinter } from "../models/progress.ts";
import { type CommandLine, OptionError, OPTIONS, parseCommandLine, VARIABLES } from "../options.ts";
import { toPath } from "./_command.ts";
import { build } from "./build.ts";

interface PreparedModel {
  readonly path: string;
  /** The name to serve it by, where its files' name would not do. */
  readonly name?: string;
}

/** Fetches a model that is not there, so that the server itself needs neither network nor programs. */
async function prepareModel(source: string | undefined): Promise<PreparedModel> {
  const onProgress = progressPrinter();
  if (source === undefined) return { path: await fetchDemoModel({ onProgress }) };
  const path = await findPath(source);
  if (path !== null) return { path };
  const hubSource = source.endsWith(".gguf") ? null : parseHubSource(source);
  // What is nowhere is for the server to report.
  if (hubSource === null) return { path: source };
  return { path: await fetchFromHub(hubSource, { onProgress }), name: source };
}

/** A path as the user means it: a task runs in the project's folder, and INIT_CWD is where the user stands. */
async function findPath(source: string): Promise<string | null> {
  for (const folder of [Deno.env.get("INIT_CWD") ?? ".", "."]) {
    const path = resolve(folder, source);
    if (await Deno.stat(path).then(() => true, () => false)) return path;
  }
  return null;
}

/** The options that name files, each as a flag with the path as the user means it. */
async function fileFlags({ options }: CommandLine): Promise<{ flags: string[]; paths: string[] }> {
  const flags: string[] = [];
  const paths: string[] = [];
  for (const key of ["kvScales", "apiKeyFile", "chatTemplate"] as const) {
    const given = options[key];
    if (given === null) continue;
    // What is nowhere is for the server to report.
    const path = await findPath(given) ?? given;
    flags.push(`--${OPTIONS[key].flag}=${path}`);
    paths.push(path);
  }
  return { flags, paths };
}

/** Everything the server may do: call the library, read code, model and files, listen on its address. */
async function permissions({ options }: CommandLine, model: string, files: readonly string[]): Promise<string[]> {
  const project = toPath(new URL("..", import.meta.url));
  const library = Deno.env.get("OCTAVO_LIB");
  const libraries = library ? [library] : [];
  return [
    `--allow-ffi=${[`${project}build`, ...libraries].map(withoutComma).join(",")}`,
    `--allow-read=${[project, ...await placesOf(model), ...files, ...libraries].map(withoutComma).join(",")}`,
    `--allow-env=${[...VARIABLES, "OCTAVO_LIB"].join(",")}`,
    `--allow-net=${options.host.includes(":") ? `[${options.host}]` : options.host}:${options.port}`,
  ];
}

/** A model's path and where its links lead: the hub's cache keeps contents apart from the folder that names them. */
async function placesOf(model: string): Promise<string[]> {
  const places = new Set([model]);
  const add = async (path: string, place: (target: string) => string) => {
    const target = await Deno.realPath(path).catch(() => null);
    if (target !== null) places.add(place(target));
  };
  await add(model, (target) => target);
  const info = await Deno.stat(model).catch(() => null);
  for (const { name, isSymlink } of info?.isDirectory ? Deno.readDirSync(model) : []) {
    if (isSymlink) await add(join(model, name), dirname);
  }
  return [...places];
}

/** A path for a permission's list, which cannot hold commas: the nearest folder above that has none. */
function withoutComma(path: string): string {
  const folder = resolve(path);
  return folder.includes(",") ? withoutComma(dirname(folder)) : folder;
}

/** Runs the server until it ends. @returns Its exit code. */
async function runServer(args: readonly string[]): Promise<number> {
  const commandLine = parseCommandLine(args, (name) => Deno.env.get(name));
  const [source, ...rest] = commandLine.positionals;
  const info = commandLine.help || commandLine.version || rest.length > 0;
  const main = toPath(new URL("../mod.ts", import.meta.url));
  if (info) return await run([`--allow-env=${VARIABLES.join(",")}`, main, "serve", ...args]);
  // A library that the user names needs no compiler here; one for GPUs takes minutes and is built by its own command.
  if (!Deno.env.get("OCTAVO_LIB") && commandLine.options.device !== "cuda") await build({ backend: "cpu" });
  const model = await prepareModel(source);
  const { flags, given } = commandLine;
  const name = model.name === undefined || given.has("servedModelName") ? [] : [`--served-model-name=${model.name}`];
  const files = await fileFlags(commandLine);
  const permitted = await permissions(commandLine, model.path, files.paths);
  return await run([...permitted, main, "serve", model.path, ...flags, ...files.flags, ...name]);
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
  Deno.exit(error instanceof OptionError ? 2 : 1);
}
