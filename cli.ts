/**
 * The command line: `octavo serve [MODEL] [options]`, and what else `octavo` does.
 *
 * @module
 */

import { calibrate, CALIBRATE_HELP, parseCalibrate } from "./calibrate.ts";
import { compare, COMPARE_HELP, parseCompare } from "./compare.ts";
import { EVAL_KV_HELP, evalKv, parseEvalKv } from "./eval_kv.ts";
import { inspect, INSPECT_HELP, parseInspect } from "./inspect.ts";
import { type ProgressListener, progressPrinter } from "./models/progress.ts";
import { describeOptions, OptionError, parseCommandLine } from "./options.ts";
import { serve, type Server } from "./serve.ts";
import { VERSION } from "./version.ts";

const HELP = `Octavo ${VERSION}: an OpenAI-compatible LLM inference server with an FP8 KV cache

Usage: octavo serve [MODEL] [options]    (in a clone: deno task serve [MODEL] [options])

MODEL is a .gguf file, a folder in Hugging Face's layout, or org/name[:quantization][@revision] on the Hugging Face
hub. Without MODEL the demo model (SmolLM2-135M-Instruct) is served.

Other commands; --help behind them says more:
  octavo calibrate [MODEL] --data FILE    makes scales for an FP8 KV cache
  octavo eval-kv [MODEL] --data FILE      what each KV cache costs in quality, on your text
  octavo compare [MODEL] --prompt TEXT    one prompt under two KV caches, token by token
  octavo inspect [MODEL]                  what a model's files hold, and how many tokens fit each KV cache

Options (a flag wins over its environment variable):
${describeOptions()}
  --help, -h
        Print this and exit
  --version
        Print the version and exit
`;

interface Command {
  readonly help: string;
  readonly run: (
    args: readonly string[],
    output: { log: (text: string) => void; onProgress: ProgressListener },
  ) => Promise<void>;
}

/** Those beside `serve`. */
const COMMANDS: Readonly<Record<string, Command>> = {
  calibrate: { help: CALIBRATE_HELP, run: (args, output) => calibrate(parseCalibrate(args), output) },
  compare: { help: COMPARE_HELP, run: (args, output) => compare(parseCompare(args), output) },
  "eval-kv": { help: EVAL_KV_HELP, run: (args, output) => evalKv(parseEvalKv(args), output) },
  inspect: { help: INSPECT_HELP, run: (args, output) => inspect(parseInspect(args), output) },
};

/**
 * Runs a command line and returns when it is done; `serve` is done when the server has shut down.
 *
 * @returns The process's exit code: 0, 1 after a failure, 2 when the command line is wrong.
 */
export async function main(args: readonly string[]): Promise<number> {
  try {
    const known = Object.hasOwn(COMMANDS, args[0] ?? "") ? COMMANDS[args[0]!] : undefined;
    if (known !== undefined) return await runCommand(known, args.slice(1));
    const { options, positionals, help, version } = parseCommandLine(args, (name) => Deno.env.get(name));
    if (version) {
      console.log(VERSION);
      return 0;
    }
    if (help || positionals.length === 0) {
      console.log(HELP);
      return help ? 0 : 2;
    }
    const [command, model, ...rest] = positionals;
    if (command !== "serve") {
      throw new OptionError(
        `Unknown command "${command}"; there are: ${["serve", ...Object.keys(COMMANDS)].join(", ")}`,
      );
    }
    if (rest.length > 0) throw new OptionError(`Expected one MODEL, received also "${rest[0]}"`);
    let report = "";
    let log: (text: string) => void = (text) => report = text;
    await using server = await serve({ model, ...options, log: (text) => log(text), onProgress: progressPrinter() });
    closeOnSignals(server);
    // Whoever waits for the report may send a signal at once.
    log = console.error;
    log(report);
    await server.finished;
    return await server.engine.ended === null ? 0 : 1;
  } catch (error) {
    console.error(`octavo: ${(error as Error).message}`);
    return error instanceof OptionError ? 2 : 1;
  }
}

async function runCommand({ help, run }: Command, args: readonly string[]): Promise<number> {
  if (args.includes("--help") || args.includes("-h")) console.log(help);
  else await run(args, { log: (text) => console.log(text), onProgress: progressPrinter() });
  return 0;
}

/** The first SIGINT or SIGTERM lets running requests finish; the second ends the process at once. */
function closeOnSignals(server: Server): void {
  let signals = 0;
  const onSignal = () => {
    if (++signals > 1) Deno.exit(130);
    console.error("Finishing the running requests; press Ctrl-C again to end at once");
    server.close();
  };
  Deno.addSignalListener("SIGINT", onSignal);
  Deno.addSignalListener("SIGTERM", onSignal);
  server.finished.finally(() => {
    Deno.removeSignalListener("SIGINT", onSignal);
    Deno.removeSignalListener("SIGTERM", onSignal);
  });
}
