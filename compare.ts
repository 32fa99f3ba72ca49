/**
 * `octavo compare`: one prompt under two KV caches, token by token.
 *
 * @module
 */

import { parseFlags } from "./_flags.ts";
import { alignColumns } from "./_table.ts";
import { KV_CACHE_DTYPE_NAMES, type KvCacheDtypeName } from "./engine/kv_cache_plan.ts";
import { KvComparison } from "./engine/kv_comparison.ts";
import { kvVariant } from "./engine/kv_variants.ts";
import { loadModel } from "./engine/load_model.ts";
import { type ComparedToken, summarize, TokenComparison } from "./engine/token_comparison.ts";
import { openDevice } from "./ffi/library.ts";
import { BACKENDS, type Device } from "./ffi/library_search.ts";
import { fetchDemoModel } from "./models/demo.ts";
import { openModel } from "./models/open_model.ts";
import type { ProgressListener } from "./models/progress.ts";
import type { Tokenizer } from "./models/types.ts";
import { OptionError } from "./options.ts";

export const COMPARE_HELP = `Usage: octavo compare [MODEL] --prompt TEXT [options]

Runs a prompt through two KV caches, goes on greedily as the reference does, and prints for every token its probability
under both, the KL divergence at its place, and what the other cache would have chosen where that differs.

  --kv-cache-dtype DTYPE   int8
  --reference DTYPE        float32 on a CPU, else the model's dtype
  --kv-scales FILE         scales for --kv-cache-dtype fp8, means of K for int8, k8v4 and int4; else the checkpoint's
  --max-tokens N           32; decoded after the prompt
  --device auto|cpu|cuda   auto
  --threads N              0 = one for each physical core
`;

/** Options of {@linkcode compare}. */
export interface CompareCommand {
  readonly model: string | undefined;
  readonly prompt: string;
  readonly kvCacheDtype: KvCacheDtypeName;
  readonly reference: KvCacheDtypeName | null;
  readonly kvScales: string | null;
  readonly maxTokens: number;
  readonly device: Device;
  readonly threads: number;
}

const DEVICES = ["auto", ...BACKENDS.toReversed()] as const;
const DTYPES = ["int8", ...KV_CACHE_DTYPE_NAMES.filter((name) => name !== "int8")] as const;

/** @throws {OptionError} An unknown flag, or a value that does not fit. */
export function parseCompare(args: readonly string[]): CompareCommand {
  const names = ["prompt", "kv-cache-dtype", "reference", "kv-scales", "max-tokens", "device", "threads"];
  const flags = parseFlags("compare", names, args);
  const prompt = flags.text("prompt");
  if (!prompt) throw new OptionError("octavo compare needs --prompt TEXT");
  return {
    model: flags.model,
    prompt,
    kvCacheDtype: flags.choice("kv-cache-dtype", DTYPES),
    reference: flags.text("reference") === null ? null : flags.choice("reference", DTYPES),
    kvScales: flags.text("kv-scales") || null,
    maxTokens: flags.integer("max-tokens", 32, 0),
    device: flags.choice("device", DEVICES),
    threads: flags.integer("threads", 0, 0),
  };
}

/**
 * Compares.
 *
 * @param log Told the table.
 * @throws {OptionError} Prompt and output do not fit the model's context, or both caches are the same.
 */
export async function compare(
  command: CompareCommand,
  { log, onProgress }: { log: (text: string) => void; onProgress: ProgressListener },
): Promise<void> {
  const { maxTokens, threads: numThreads } = command;
  const model = await openModel(command.model ?? await fetchDemoModel({ onProgress }), { onProgress });
  const promptTokenIds = model.tokenizer.encode(command.prompt);
  const maxModelLen = promptTokenIds.length + maxTokens;
  if (maxModelLen > model.config.maxModelLen) {
    throw new OptionError(
      `Cannot compare ${promptTokenIds.length} tokens of prompt and ${maxTokens} of output: the model's context is ` +
        `${model.config.maxModelLen}`,
    );
  }
  const { library } = await openDevice(command.device);
  using _library = library;
  const exact = library.deviceInfo().backend === "cpu" ? "float32" : model.config.dtype;
  const reference = kvVariant(model, command.reference ?? exact);
  const other = kvVariant(model, command.kvCacheDtype, command.kvScales);
  if (reference.name === other.name) throw new OptionError(`Cannot compare ${other.name} with itself`);
  using native = loadModel(
    library,
    model,
    { maxModelLen, layerKvDtypes: [], numThreads, quantization: "none" },
    (doneBytes, totalBytes) => onProgress({ label: `Loading ${model.name}`, doneBytes, totalBytes }),
  );
  using comparison = new KvComparison(native, { variants: [reference, other], maxTokens: maxModelLen, numThreads });
  const work = new TokenComparison(comparison, { promptTokenIds, maxTokens, eosTokenIds: model.eosTokenIds });
  while (!work.isDone) work.step();
  const names = { reference: reference.name, other: other.name };
  log(`${tokenTable(work.tokens, model.tokenizer, names)}\n\n${summaryLine(work.tokens, names)}`);
}

interface Names {
  readonly reference: string;
  readonly other: string;
}

function tokenTable(tokens: readonly ComparedToken[], tokenizer: Tokenizer, { reference, other }: Names): string {
  const text = (id: number) => JSON.stringify(tokenizer.decode([id], { skipSpecialTokens: false }));
  const percent = (logprob: number) => `${(100 * Math.exp(logprob)).toFixed(2)} %`;
  const rows = tokens.map((token) => [
    token.isPrompt ? "prompt" : "output",
    text(token.tokenId),
    percent(token.referenceLogprob),
    percent(token.logprob),
    token.kl.toPrecision(2),
    token.top === token.referenceTop ? "" : `${text(token.top)} instead of ${text(token.referenceTop)}`,
  ]);
  return alignColumns([["", "token", reference, other, "KL", `most likely under ${other}`], ...rows]);
}

function summaryLine(tokens: readonly ComparedToken[], { other }: Names): string {
  const { klMean, klMax, top1Agreement, firstDivergence } = summarize(tokens);
  const divergence = firstDivergence === null
    ? `${other} would have chosen the same output`
    : `${other} would have chosen another token first at place ${firstDivergence + 1} of the output`;
  return `mean KL ${klMean.toPrecision(3)}, largest ${klMax.toPrecision(3)}, same most likely token ` +
    `${(100 * top1Agreement).toFixed(1)} %; ${divergence}`;
}
