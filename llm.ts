/**
 * Octavo as a library: load a model, generate text.
 *
 * @example
 * ```ts ignore
 * import { LLM } from "./llm.ts";
 *
 * await using llm = await LLM.load({ kvCacheDtype: "fp8" });
 * const [out] = await llm.generate("London is the capital of", { temperature: 0.7, topP: 0.8 });
 * console.log(out.outputs[0].text);
 * ```
 *
 * @module
 */

import { collect, type Collected } from "./engine/collect.ts";
import { generate } from "./engine/generate.ts";
import type { KvCacheDtypeName, KvCacheMemory, SkippedLayer } from "./engine/kv_cache_plan.ts";
import { type SamplingOptions, samplingParams } from "./engine/sampling_params.ts";
import { startEngine } from "./engine/start_engine.ts";
import type {
  Delta,
  Engine,
  EngineInfo,
  GenerationRequest,
  KvCacheStats,
  PromptLogprob,
  Quantization,
  SamplingParams,
} from "./engine/types.ts";
import type { Device } from "./ffi/library_search.ts";
import { fetchDemoModel } from "./models/demo.ts";
import { type LOAD_FORMATS, openModel } from "./models/open_model.ts";
import type { ProgressListener } from "./models/progress.ts";
import type { ChatMessage, ModelFiles, Tokenizer } from "./models/types.ts";
import { OPTIONS, parseBytes, parseMemory } from "./options.ts";

/** How to load a model; what is left out has the server's defaults (`--help` lists them). */
export interface LLMOptions {
  /** A .gguf file, a folder, or `org/name` of the Hugging Face hub. Default: the demo model, SmolLM2-135M-Instruct. */
  readonly model?: string;
  /** How the KV cache is stored. Default "auto": as the model's weights. */
  readonly kvCacheDtype?: KvCacheDtypeName;
  /** Dtypes that prompts may choose, the default first; all share one cache. Default: `kvCacheDtype` alone. */
  readonly kvCacheDtypes?: readonly KvCacheDtypeName[];
  /** Layers whose cache keeps the model's dtype: numbers from 0, or "sliding_window" for all that have one. */
  readonly kvCacheDtypeSkipLayers?: readonly SkippedLayer[];
  /** Default "auto"; "dummy" makes the weights up for a folder with config.json, to measure speed and memory. */
  readonly loadFormat?: typeof LOAD_FORMATS[number];
  /** What a GPU makes of the layers' matrices: "fp8" is E4M3 with a scale a row. Default "none". */
  readonly quantization?: Quantization;
  /** Of a GPU's memory, above 0 and at most 1: weights, steps and KV cache together. Default 0.9. */
  readonly gpuMemoryUtilization?: number;
  /** Memory for the KV cache: "2GiB" or "0.25", or as an object. */
  readonly kvCacheMemory?: string | KvCacheMemory;
  /** Host memory for KV pages of prompts that the cache has no room for: "8GiB", or bytes. Default: none. */
  readonly kvOffloadMemory?: string | number;
  /** Set the FP8 KV cache's scales from the first prompts' values, once, where no file brings any. */
  readonly calculateKvScales?: boolean;
  /** Tokens from which `calculateKvScales` sets the scales for good. Default 512. */
  readonly calculateKvScalesTokens?: number;
  /** Count magnitudes, saturated elements and sampled errors of what the KV cache stores: {@linkcode LLM.kvCacheStats}. */
  readonly kvCacheStats?: boolean;
  /** For finding faults: compare checksums of shared pages, which is slow; the engine fails when one changes. */
  readonly checkPages?: boolean;
  /** File of scales for an FP8 KV cache (safetensors or JSON), used before the checkpoint's. */
  readonly kvScales?: string;
  /** Missing or unusable scales of an FP8 KV cache are an error, not a warning. */
  readonly strictKvScales?: boolean;
  /** Keep the KV pages of prompts, so that equal beginnings are computed once. Default true. */
  readonly enablePrefixCaching?: boolean;
  /** Most tokens guessed for a sequence from its own text and checked in one step. Default: 4 on a CPU, 0 on a GPU. */
  readonly numSpeculativeTokens?: number;
  /** Tokens that must have stood in a text before, for those that followed to be guessed. Default 3. */
  readonly promptLookupMin?: number;
  /** Longest sequence, prompt and output together. Default: the model's own limit. */
  readonly maxModelLen?: number;
  /** Sequences that run at the same time. */
  readonly maxNumSeqs?: number;
  /** Tokens of one step. Default: the device's, and on a GPU fewer in steps that decode. */
  readonly maxNumBatchedTokens?: number;
  /** Tokens of a KV page: 16, 32 or 64. */
  readonly pageSize?: number;
  /** Threads for computing; 0 = one for each physical core. */
  readonly threads?: number;
  /** What to run on. Default "auto": a GPU where there is one and its library is built, else the CPU. */
  readonly device?: Device;
  /** Told how far fetching and loading have come. */
  readonly onProgress?: ProgressListener;
}

/** How a prompt or a conversation is served. */
export type GenerateOptions = SamplingOptions & {
  /** How its keys and values are stored: one of `LLMOptions.kvCacheDtypes`. Default: the first. */
  readonly kvCacheDtype?: KvCacheDtypeName;
};

/** A prompt: text, or token ids. */
export type Prompt = string | readonly number[];

/** What a prompt gave. */
export interface RequestOutput {
  /** The prompt's text, or null when it was given as token ids. */
  readonly prompt: string | null;
  /** The prompt as the model saw it. */
  readonly promptTokenIds: readonly number[];
  /** One entry a token of the prompt, null for the first, where `promptLogprobs` asked for them. */
  readonly promptLogprobs: readonly (PromptLogprob | null)[] | null;
  /** n completions, by index. */
  readonly outputs: Collected;
}

/** A loaded model. Close it, or hold it with `await using`: its Worker keeps the program running. */
export class LLM implements AsyncDisposable {
  readonly #engine: Engine;
  readonly #model: ModelFiles;
  #nextId = 0;

  private constructor(engine: Engine, model: ModelFiles) {
    this.#engine = engine;
    this.#model = model;
  }

  /**
   * Fetches a model if need be and loads it.
   *
   * @throws {ModelNotFoundError | ModelFileError | HubError | FetchError} The model cannot be had or read.
   * @throws {RangeError} A setting is out of its range.
   * @throws {EngineError} The native library, the weights or the KV cache could not be set up.
   *
   * @example
   * ```ts ignore
   * await using llm = await LLM.load({ model: "HuggingFaceTB/SmolLM2-135M-Instruct", maxModelLen: 2048 });
   * ```
   */
  static async load(options: LLMOptions = {}): Promise<LLM> {
    const { onProgress, device } = options;
    const progress = onProgress === undefined ? {} : { onProgress };
    const memory = options.kvCacheMemory ?? null;
    const kvCacheMemory = typeof memory === "string" ? parseMemory(memory) : memory;
    const { kvOffloadMemory = null } = options;
    const { loadFormat = OPTIONS.loadFormat.default } = options;
    const model = await openModel(options.model ?? await fetchDemoModel(progress), { ...progress, loadFormat });
    const engine = await startEngine({
      model,
      kvCacheDtype: options.kvCacheDtype ?? OPTIONS.kvCacheDtype.default,
      kvCacheDtypes: options.kvCacheDtypes ?? OPTIONS.kvCacheDtypes.default,
      kvCacheDtypeSkipLayers: options.kvCacheDtypeSkipLayers ?? OPTIONS.kvCacheDtypeSkipLayers.default,
      kvCacheMemory,
      kvOffloadMemory: typeof kvOffloadMemory === "string" ? parseBytes(kvOffloadMemory) : kvOffloadMemory,
      calculateKvScales: options.calculateKvScales ?? false,
      calculateKvScalesTokens: options.calculateKvScalesTokens ?? OPTIONS.calculateKvScalesTokens.default,
      kvCacheStats: options.kvCacheStats ?? false,
      checkPages: options.checkPages ?? false,
      kvScales: options.kvScales ?? null,
      strictKvScales: options.strictKvScales ?? false,
      enablePrefixCaching: options.enablePrefixCaching ?? true,
      numSpeculativeTokens: options.numSpeculativeTokens ?? null,
      promptLookupMin: options.promptLookupMin ?? OPTIONS.promptLookupMin.default,
      maxModelLen: options.maxModelLen ?? null,
      gpuMemoryUtilization: options.gpuMemoryUtilization ?? OPTIONS.gpuMemoryUtilization.default,
      quantization: options.quantization ?? OPTIONS.quantization.default,
      maxNumSeqs: options.maxNumSeqs ?? null,
      maxNumBatchedTokens: options.maxNumBatchedTokens ?? null,
      pageSize: options.pageSize ?? OPTIONS.pageSize.default,
      numThreads: options.threads ?? OPTIONS.threads.default,
      // A program's own prompts wait as long as it likes.
      maxQueuedRequests: Infinity,
      ...(device === undefined ? {} : { device }),
      ...progress,
    });
    return new LLM(engine, model);
  }

  /** Fixed facts: dtype and size of the KV cache, limits, device. */
  get info(): EngineInfo {
    return this.#engine.info;
  }

  /** What the KV cache made of K and V so far, up to a second old; null unless `kvCacheStats` was asked for. */
  get kvCacheStats(): KvCacheStats | null {
    return this.#engine.stats().kvCache;
  }

  /** The model's tokenizer: text to token ids and back. */
  get tokenizer(): Tokenizer {
    return this.#model.tokenizer;
  }

  /**
   * Completes one prompt or several, batched. `maxTokens` is 16 unless given; the model's own sampling defaults apply.
   *
   * @param params For all prompts, or one for each.
   * @returns One output for each prompt, in order.
   * @throws {RequestError} A prompt or a sampling param cannot be served; then nothing runs.
   * @throws {EngineError} The engine failed or is closed.
   *
   * @example
   * ```ts ignore
   * const [a, b] = await llm.generate(["One, two,", "Red, green,"], { maxTokens: 8, temperature: 0 });
   * ```
   */
  generate(
    prompts: readonly Prompt[],
    params?: GenerateOptions | readonly GenerateOptions[],
  ): Promise<RequestOutput[]>;
  /** Completes one prompt. */
  generate(prompt: Prompt, params?: GenerateOptions): Promise<[RequestOutput]>;
  async generate(
    prompts: Prompt | readonly Prompt[],
    params: GenerateOptions | readonly GenerateOptions[] = {},
  ): Promise<RequestOutput[]> {
    const list = isPrompt(prompts) ? [prompts] : prompts;
    return await this.#run(list, params, (prompt, options) => this.#completionRequest(prompt, options));
  }

  /**
   * Answers one conversation or several, batched. `maxTokens` is what the context has left unless given.
   *
   * @param params For all conversations, or one for each.
   * @throws {TypeError} The model brings no chat template.
   * @throws {TemplateError} The template refuses the messages.
   * @throws {RequestError} A conversation or a sampling param cannot be served; then nothing runs.
   * @throws {EngineError} The engine failed or is closed.
   *
   * @example
   * ```ts ignore
   * const [out] = await llm.chat([{ role: "user", content: "What is an octavo?" }]);
   * ```
   */
  chat(
    conversations: readonly (readonly ChatMessage[])[],
    params?: GenerateOptions | readonly GenerateOptions[],
  ): Promise<RequestOutput[]>;
  /** Answers one conversation. */
  chat(messages: readonly ChatMessage[], params?: GenerateOptions): Promise<[RequestOutput]>;
  async chat(
    messages: readonly ChatMessage[] | readonly (readonly ChatMessage[])[],
    params: GenerateOptions | readonly GenerateOptions[] = {},
  ): Promise<RequestOutput[]> {
    const list = isConversation(messages) ? [messages] : messages;
    return await this.#run(list, params, (conversation, options) => this.#chatRequest(conversation, options));
  }

  /**
   * Streams what each step adds, for a prompt or a conversation. Leaving the loop aborts the request.
   *
   * @throws As {@linkcode generate} and {@linkcode chat}, at the first delta.
   *
   * @example
   * ```ts ignore
   * for await (const delta of llm.stream("Once upon a time", { maxTokens: 100 })) {
   *   Deno.stdout.writeSync(new TextEncoder().encode(delta.text));
   * }
   * ```
   */
  async *stream(
    input: Prompt | readonly ChatMessage[],
    params: GenerateOptions = {},
  ): AsyncGenerator<Delta, void, undefined> {
    const { request } = isPrompt(input) ? this.#completionRequest(input, params) : this.#chatRequest(input, params);
    for await (const deltas of generate(this.#engine, request)) yield* deltas;
  }

  /** Ends all requests, then frees the model. */
  close(): Promise<void> {
    return this.#engine.close();
  }

  /** {@linkcode close}, for `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #run<T>(
    inputs: readonly T[],
    params: GenerateOptions | readonly GenerateOptions[],
    prepare: (input: T, options: GenerateOptions) => PreparedRequest,
  ): Promise<RequestOutput[]> {
    const each = isList(params) ? params : inputs.map(() => params);
    if (each.length !== inputs.length) {
      throw new RangeError(`Expected one set of params for each of ${inputs.length} inputs, received ${each.length}`);
    }
    const prepared = inputs.map((input, i) => prepare(input, each[i]!));
    const submitted: ReturnType<typeof collect>[] = [];
    try {
      for (const { request } of prepared) submitted.push(collect(this.#engine, request));
    } catch (error) {
      for (const { abort } of submitted) abort();
      await Promise.allSettled(submitted.map(({ outputs }) => outputs));
      throw error;
    }
    const outputs = await Promise.all(submitted.map(({ outputs }) => outputs));
    return prepared.map(({ prompt, request: { promptTokenIds } }, i) => ({
      prompt,
      promptTokenIds,
      promptLogprobs: submitted[i]!.promptLogprobs(),
      outputs: outputs[i]!,
    }));
  }

  #completionRequest(prompt: Prompt, options: GenerateOptions): PreparedRequest {
    const promptTokenIds = typeof prompt === "string" ? this.tokenizer.encode(prompt) : prompt;
    const sampling = samplingParams(options, this.#model.generationDefaults);
    return {
      prompt: typeof prompt === "string" ? prompt : null,
      request: this.#request(promptTokenIds, sampling, options),
    };
  }

  #chatRequest(messages: readonly ChatMessage[], options: GenerateOptions): PreparedRequest {
    const { chatTemplate, name, generationDefaults } = this.#model;
    if (chatTemplate === null) throw new TypeError(`Cannot chat: the model ${name} brings no chat template`);
    const prompt = chatTemplate.render(messages, { addGenerationPrompt: true });
    const promptTokenIds = this.tokenizer.encode(prompt, { addSpecialTokens: false });
    const left = Math.min(this.info.maxModelLen, this.info.numKvTokens) - promptTokenIds.length;
    const sampling = samplingParams(
      { ...options, maxTokens: options.maxTokens ?? Math.max(1, left) },
      generationDefaults,
    );
    return { prompt, request: this.#request(promptTokenIds, sampling, options) };
  }

  #request(
    promptTokenIds: readonly number[],
    sampling: SamplingParams,
    { kvCacheDtype }: GenerateOptions,
  ): GenerationRequest {
    const id = `llm-${this.#nextId++}`;
    return { id, promptTokenIds, sampling, ...kvCacheDtype === undefined ? {} : { kvCacheDtype } };
  }
}

interface PreparedRequest {
  readonly prompt: string | null;
  readonly request: GenerationRequest;
}

function isPrompt(input: Prompt | readonly unknown[]): input is Prompt {
  return typeof input === "string" || typeof input[0] === "number";
}

function isConversation(
  messages: readonly ChatMessage[] | readonly (readonly ChatMessage[])[],
): messages is readonly ChatMessage[] {
  return messages.length > 0 && !Array.isArray(messages[0]);
}

function isList<T>(value: T | readonly T[]): value is readonly T[] {
  return Array.isArray(value);
}
