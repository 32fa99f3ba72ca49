/**
 * Command lines of the end-to-end benches: their own flags, and those of `serve`.
 *
 * @module
 */

import { PROJECT_FOLDER } from "../ffi/library_search.ts";
import { type Options, parseCommandLine } from "../options.ts";

/** A bench's command line. */
export interface BenchCommand<F extends string> {
  /** The bench's own flags that were given. */
  readonly flags: { readonly [K in F]?: string };
  /** `serve`'s options. */
  readonly options: Options;
  /** Those that were given, each as `--flag=VALUE`. */
  readonly serveFlags: readonly string[];
  readonly source: string | undefined;
}

/**
 * @param names The bench's own flags.
 * @throws {OptionError} A flag is known to neither.
 */
export function parseBenchCommand<F extends string>(args: readonly string[], names: readonly F[]): BenchCommand<F> {
  const flags: { [K in F]?: string } = {};
  const rest: string[] = [];
  const list = args.flatMap((arg) => arg.startsWith("--") ? splitOnce(arg, "=") : [arg]);
  for (let i = 0; i < list.length; i++) {
    const name = names.find((one) => list[i] === `--${one}`);
    if (name === undefined) rest.push(list[i]!);
    else flags[name] = list[++i] ?? "";
  }
  const { options, flags: serveFlags, positionals } = parseCommandLine(rest, () => undefined);
  return { flags, options, serveFlags, source: positionals[0] };
}

function splitOnce(text: string, mark: string): string[] {
  const at = text.indexOf(mark);
  return at < 0 ? [text] : [text.slice(0, at), text.slice(at + 1)];
}

/** The NVIDIA driver's version, or null where there is none. */
export async function driverVersion(): Promise<string | null> {
  try {
    const args = ["--query-gpu=driver_version", "--format=csv,noheader"];
    const { success, stdout } = await new Deno.Command("nvidia-smi", { args, stderr: "null" }).output();
    return success ? new TextDecoder().decode(stdout).split("\n")[0]!.trim() : null;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return null;
    throw error;
  }
}

/**
 * The card's read bandwidth in TB/s as `gpu_matmul` measures it (4 GB, read linearly), or null where that bench was not
 * built (`deno task build --backend cuda --bench`) or finds no card. To be called before an engine takes the memory.
 */
export async function measureReadBandwidth(): Promise<number | null> {
  const bench = new URL("build/cuda/gpu_matmul", PROJECT_FOLDER);
  try {
    const { success, stdout } = await new Deno.Command(bench, { args: ["--only", "read"], stderr: "null" }).output();
    return success ? JSON.parse(new TextDecoder().decode(stdout)).read_tb_s : null;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return null;
    throw error;
  }
}

/** Prints a bench's result, or writes it to the file that `--out` names. */
export async function emit(result: unknown, out: string | undefined): Promise<void> {
  const text = JSON.stringify(result, null, 1) + "\n";
  if (out === undefined) await Deno.stdout.write(new TextEncoder().encode(text));
  else await Deno.writeTextFile(out, text);
}
