/**
 * A model small enough to compute by hand: the next token is a hash of all tokens before it and of everything that
 * sampling depends on. {@linkcode expectedOutput} is the oracle, {@linkcode FakeRunner} the engine under its step
 * buffer, which keeps "KV" (token ids) in pages and reads them back: any mix-up of pages, positions, sampling params
 * or edits changes the tokens.
 */

import { assert, assertEquals } from "@std/assert";
import type { PageMover, StepBufferViews, StepRunner, TransferTotals } from "../../engine/native.ts";
import { samplingParams } from "../../engine/sampling_params.ts";
import type { PromptLogprob, SamplingParams } from "../../engine/types.ts";
import type { TokenTable } from "../../models/types.ts";

export const VOCAB_SIZE = 40;
/** Ends a sequence. */
export const EOS = 0;
/** Special, like EOS, but ends nothing. */
export const BOS = 1;

/** Ids 2 to 27 are letters, the rest pieces of other lengths; two ids are the halves of an emoji. */
export const PIECES: readonly (string | readonly number[])[] = [
  "<eos>",
  "<bos>",
  ..."abcdefghijklmnopqrstuvwxyz",
  [0xf0, 0x9f],
  [0x98, 0x80],
  " ",
  " the",
  "stop",
  "é",
  "",
  "ab",
  "bc",
  "\n\n",
  "你",
  "END",
];

/** A token table from texts or bytes. */
export function tokenTable(
  pieces: readonly (string | readonly number[])[],
  options: { special?: readonly number[]; byteFallback?: readonly number[]; stripFirstSpace?: boolean } = {},
): TokenTable {
  const encoded = pieces.map((piece) => typeof piece === "string" ? new TextEncoder().encode(piece) : [...piece]);
  const length = encoded.reduce((sum, bytes) => sum + bytes.length, 0);
  const bytes = new Uint8Array(new SharedArrayBuffer(length));
  const offsets = new Int32Array(new SharedArrayBuffer(4 * (pieces.length + 1)));
  const flags = new Uint8Array(new SharedArrayBuffer(pieces.length));
  encoded.forEach((piece, id) => {
    bytes.set(piece, offsets[id]!);
    offsets[id + 1] = offsets[id]! + piece.length;
    flags[id] = (options.special?.includes(id) ? 1 : 0) | (options.byteFallback?.includes(id) ? 2 : 0);
  });
  return { bytes, offsets, flags, stripFirstSpace: options.stripFirstSpace ?? false };
}

export const TABLE = tokenTable(PIECES, { special: [EOS, BOS] });

/** Greedy params with these changes. */
export function greedy(options: Parameters<typeof samplingParams>[0] = {}): SamplingParams {
  return samplingParams({ temperature: 0, seed: 0, ...options });
}

function mix(hash: number, value: number): number {
  hash = Math.imul(hash ^ value, 0x9e3779b1);
  return (hash ^ (hash >>> 15)) >>> 0;
}

interface Draw {
  readonly temperature: number;
  readonly seedLow: number;
  readonly seedHigh: number;
  readonly sampleIndex: number;
  /** Sum over edits of {@linkcode editHash}, so that their order does not matter. */
  readonly edits: number;
  readonly banned: ReadonlySet<number>;
}

function draw(context: number, options: Draw): number {
  let hash = mix(context, options.edits);
  if (options.temperature > 0) {
    for (const part of [options.seedLow, options.seedHigh, options.sampleIndex]) hash = mix(hash, part);
  }
  for (let token = hash % VOCAB_SIZE;; token = (token + 1) % VOCAB_SIZE) if (!options.banned.has(token)) return token;
}

/** 0 for an edit that changes nothing. */
function editHash(edit: { token: number; count: number; isSeen: boolean; bias: number }): number {
  if (edit.count === 0 && !edit.isSeen && edit.bias === 0) return 0;
  return mix(mix(mix(edit.token + 1, edit.count), edit.isSeen ? 1 : 0), Math.round(edit.bias * 1000));
}

/** The tokens of sequence `index` of a request, computed from its definition. */
export function expectedOutput(prompt: readonly number[], sampling: SamplingParams, index = 0): number[] {
  const seed = BigInt.asUintN(64, sampling.seed + BigInt(index));
  const ends = new Set([...(sampling.ignoreEos ? [] : [EOS]), ...sampling.stopTokenIds]);
  const output: number[] = [];
  while (output.length < sampling.maxTokens) {
    const token = draw([...prompt, ...output].reduce(mix, 7), {
      temperature: sampling.temperature,
      seedLow: Number(seed & 0xffffffffn),
      seedHigh: Number(seed >> 32n),
      sampleIndex: output.length,
      edits: expectedEdits(prompt, output, sampling),
      banned: new Set([
        ...disallowed(sampling),
        ...output.length < sampling.minTokens ? ends : [],
        ...badTokens(output, sampling),
      ]),
    });
    output.push(token);
    if (ends.has(token) && output.length > sampling.minTokens) break;
  }
  return output;
}

/** What a score is: by the tokens before and the token itself. */
function score(context: number, token: number): { logprob: number; rank: number } {
  const hash = mix(context, token + 100);
  return { logprob: -(hash % 1000) / 8, rank: 1 + hash % VOCAB_SIZE };
}

/** Most likely tokens after a context; 3 where more are asked for. */
function scoreTop(context: number, numTop: number): { tokenId: number; logprob: number }[] {
  return Array.from({ length: Math.min(3, numTop) }, (_, i) => {
    const tokenId = (context + i) % VOCAB_SIZE;
    return { tokenId, logprob: score(context, tokenId).logprob };
  });
}

/** The log-probabilities of a prompt's tokens, computed from their definition. */
export function expectedPromptLogprobs(prompt: readonly number[], numTop: number): (PromptLogprob | null)[] {
  return prompt.map((tokenId, i) => {
    if (i === 0) return null;
    const context = prompt.slice(0, i).reduce(mix, 7);
    return { tokenId, ...score(context, tokenId), top: scoreTop(context, numTop) };
  });
}

function disallowed({ allowedTokenIds }: SamplingParams): number[] {
  return allowedTokenIds === null ? [] : [...Array(VOCAB_SIZE).keys()].filter((id) => !allowedTokenIds.includes(id));
}

/** Tokens that would complete a bad word. */
function badTokens(output: readonly number[], { badWords }: SamplingParams): number[] {
  return badWords.filter((word) =>
    `,${output.join()},`.endsWith(`,${word.slice(0, -1).map((id) => `${id},`).join("")}`)
  )
    .map((word) => word.at(-1)!);
}

function expectedEdits(prompt: readonly number[], output: readonly number[], sampling: SamplingParams): number {
  let sum = 0;
  for (let token = 0; token < VOCAB_SIZE; token++) {
    const counts = sampling.presencePenalty !== 0 || sampling.frequencyPenalty !== 0;
    const isSeen = sampling.repetitionPenalty !== 1 && (prompt.includes(token) || output.includes(token));
    const count = counts ? output.filter((other) => other === token).length : 0;
    sum += editHash({ token, count, isSeen, bias: sampling.logitBias.get(token) ?? 0 });
  }
  return sum >>> 0;
}

export interface FakeRunnerConfig {
  readonly maxNumSeqs: number;
  readonly maxNumBatchedTokens: number;
  readonly pageSize: number;
  readonly numPages: number;
  readonly maxLogitEdits?: number;
  readonly maxScores?: number;
  /** Default: maxNumSeqs. */
  readonly maxSamples?: number;
  /** Default: 0. */
  readonly numHostPages?: number;
  /** Of kv index 1, 2, ... Default: none. */
  readonly morePageSizes?: readonly number[];
}

/** Runs {@linkcode expectedOutput}'s model on a step buffer, and checks the buffer as octavo.h asks. */
export class FakeRunner implements StepRunner, PageMover {
  readonly buffers: readonly [StepBufferViews, StepBufferViews];
  /** Of the step submitted last. */
  buffer: StepBufferViews;
  numSteps = 0;
  /** Bytes of masks that steps have brought. */
  numMaskBytes = 0;
  /** Called before each step. */
  onStep: () => void = () => {};
  /** Tokens of each step's sequences. */
  queryLens: number[] = [];
  readonly #config: FakeRunnerConfig;
  readonly #pageSizes: readonly number[];
  /** Tokens that a page has room for. */
  readonly #stride: number;
  /** Token + 1000 x kv index: who reads it as another dtype gets something else. */
  readonly #kv: Int32Array;
  readonly #hostKv: Int32Array;
  /** What a page's copy takes. */
  secondsPerPage = 0.001;
  /** Copies asked for that have not happened, oldest first: each happens as late as it may, or when somebody asks. */
  readonly #transfers: { readonly saves: boolean; readonly pages: Int32Array; readonly hostPages: Int32Array }[] = [];
  #totals: TransferTotals = {
    numSubmitted: 0,
    numFinished: 0,
    savedBytes: 0,
    savedSeconds: 0,
    restoredBytes: 0,
    restoredSeconds: 0,
  };
  #numAsked = 0;
  /** Steps under way, oldest first, with what they sampled: the buffer shows it when they are finished. */
  readonly #flights: {
    readonly buffer: StepBufferViews;
    readonly sampled: Int32Array;
    readonly logprob: Float32Array;
    readonly pages: ReadonlySet<number>;
  }[] = [];
  #lastSampled = new Int32Array(0);
  /** The device's. */
  readonly #masks: Uint32Array;

  constructor(config: FakeRunnerConfig) {
    this.#config = config;
    this.#pageSizes = [config.pageSize, ...config.morePageSizes ?? []];
    this.#stride = Math.max(...this.#pageSizes);
    this.#kv = new Int32Array(config.numPages * this.#stride).fill(-1);
    this.#hostKv = new Int32Array((config.numHostPages ?? 0) * this.#stride).fill(-1);
    this.buffers = [newStepBuffer(config), newStepBuffer(config)];
    this.buffer = this.buffers[0];
    this.#masks = new Uint32Array(this.buffer.tokenMasks.length);
  }

  submit(buffer: StepBufferViews): void {
    assert(this.#flights.length < 2 && !this.#flights.some((flight) => flight.buffer === buffer), "buffers alternate");
    this.buffer = buffer;
    for (let i = 0; i < buffer.header[1]!; i++) {
      const token = buffer.tokens[i]!;
      if (token < 0) buffer.tokens[i] = this.#lastSampled[-token - 1]!;
    }
    this.step();
    this.#lastSampled = buffer.sampled.slice();
    const pages = new Set(this.#stepPages());
    this.#flights.push({ buffer, sampled: this.#lastSampled, logprob: buffer.scoreLogprob.slice(), pages });
    buffer.sampled.fill(-7);
    buffer.scoreLogprob.fill(NaN);
  }

  finish(buffer: StepBufferViews): void {
    const flight = this.#flights.shift();
    assert(flight?.buffer === buffer, "steps finish in order");
    buffer.sampled.set(flight.sampled);
    buffer.scoreLogprob.set(flight.logprob);
  }

  savePages(pages: Int32Array, hostPages: Int32Array): void {
    this.#transfer({ saves: true, pages, hostPages });
  }

  restorePages(pages: Int32Array, hostPages: Int32Array): void {
    this.#transfer({ saves: false, pages, hostPages });
  }

  /** Every other time that it is asked one transfer more has happened. */
  transferStats(): TransferTotals {
    if (++this.#numAsked % 2 === 0) this.#runTransfers(1);
    return this.#totals;
  }

  #transfer(transfer: { saves: boolean; pages: Int32Array; hostPages: Int32Array }): void {
    const { pages, hostPages } = transfer;
    assert(pages.length > 0 && pages.length === hostPages.length, "every page has a host page");
    for (const page of hostPages) assert(page >= 0 && page < this.#config.numHostPages!, `host page ${page} exists`);
    for (const flight of this.#flights) {
      for (const page of pages) assert(!flight.pages.has(page), `no step under way uses page ${page}, which is copied`);
    }
    this.#transfers.push({ ...transfer, pages: pages.slice(), hostPages: hostPages.slice() });
    this.#totals = { ...this.#totals, numSubmitted: this.#totals.numSubmitted + 1 };
  }

  #runTransfers(count: number): void {
    const stride = this.#stride;
    for (const { saves, pages, hostPages } of this.#transfers.splice(0, count)) {
      pages.forEach((page, i) => {
        const inPool = this.#kv.subarray(page * stride, (page + 1) * stride);
        const inHost = this.#hostKv.subarray(hostPages[i]! * stride, (hostPages[i]! + 1) * stride);
        if (saves) inHost.set(inPool);
        else inPool.set(inHost);
      });
      const [bytes, seconds] = [10 * pages.length, this.secondsPerPage * pages.length];
      const { numFinished, savedBytes, savedSeconds, restoredBytes, restoredSeconds } = this.#totals;
      this.#totals = {
        ...this.#totals,
        numFinished: numFinished + 1,
        ...saves
          ? { savedBytes: savedBytes + bytes, savedSeconds: savedSeconds + seconds }
          : { restoredBytes: restoredBytes + bytes, restoredSeconds: restoredSeconds + seconds },
      };
    }
  }

  /** Pages that the step in the buffer uses. */
  #stepPages(): number[] {
    const { header, seqLen, pageTable, maxPagesPerSeq, kvIndex } = this.buffer;
    return Array.from({ length: header[0]! }, (_, s) => s).flatMap((s) => {
      const numPages = Math.ceil(seqLen[s]! / this.#pageSizes[kvIndex[s]!]!);
      return [...pageTable.subarray(s * maxPagesPerSeq, s * maxPagesPerSeq + numPages)];
    });
  }

  /** Of what a page holds once all transfers have happened. */
  pageChecksum(page: number): bigint {
    this.#runTransfers(this.#transfers.length);
    const stored = this.#kv.subarray(page * this.#stride, (page + 1) * this.#stride);
    return BigInt(stored.reduce((hash, word) => mix(hash, word), 1));
  }

  /** A fault: a page that nobody was to write changes. */
  spoilPage(page: number): void {
    this.#kv[page * this.#stride]!++;
  }

  /** What is stored is worth nothing any more: whoever reads it gets other tokens. */
  spoil(): void {
    this.#kv.fill(-1);
    this.#hostKv.fill(-1);
  }

  step(): void {
    this.onStep();
    this.numSteps++;
    const pages = new Set(this.#stepPages());
    this.#runTransfers(1 + this.#transfers.findLastIndex((transfer) => transfer.pages.some((page) => pages.has(page))));
    const { header, queryLen, editBegin } = this.buffer;
    const [numSeqs = 0, numTokens = 0, numEdits = 0] = header;
    assert(numSeqs >= 1 && numSeqs <= this.#config.maxNumSeqs, "sequences fit the step");
    assert(numTokens <= this.#config.maxNumBatchedTokens, "tokens keep the budget");
    assert(numEdits <= this.buffer.maxLogitEdits, "edits fit the tables");
    this.queryLens = [...queryLen.subarray(0, numSeqs)];
    assertEquals(this.queryLens.reduce((a, b) => a + b), numTokens);
    assertEquals([editBegin[0], editBegin[numSeqs]], [0, numEdits]);
    const slots = Array.from({ length: numSeqs }, (_, s) => this.#slots(s));
    this.#checkOwners(slots);
    this.#takeMasks();
    let begin = 0;
    let numScores = 0;
    let row = 0;
    for (let s = 0; s < numSeqs; s++) {
      this.#write(s, begin, slots[s]!);
      numScores += this.#score(s, begin, slots[s]!);
      begin += queryLen[s]!;
      const numRows = this.buffer.sample[s]!;
      assert(numRows >= 0 && numRows <= queryLen[s]!, "sample is 0 to query_len");
      for (let i = 0; i < numRows; i++) {
        this.#sample(s, row++, i, slots[s]!.slice(0, slots[s]!.length - numRows + i + 1));
      }
    }
    assert(row <= this.buffer.maxSamples, "rows fit the tables");
    assertEquals(numScores, header[4], "every score is of a token of the step");
  }

  /** Tells the scores that stand after a sequence's tokens, the first of which is `begin`; returns how many. */
  #score(s: number, begin: number, slots: readonly number[]): number {
    const { buffer } = this;
    const end = begin + buffer.queryLen[s]!;
    const numScores = buffer.header[4]!;
    assert(numScores <= buffer.maxScores, "scores fit the tables");
    let count = 0;
    for (let x = 0; x < numScores; x++) {
      const index = buffer.scoreIndex[x]!;
      if (index < begin || index >= end) continue;
      count++;
      const context = this.#read(s, slots.slice(0, slots.length - (end - 1 - index))).reduce(mix, 7);
      const { logprob, rank } = score(context, buffer.scoreToken[x]!);
      buffer.scoreLogprob[x] = logprob;
      buffer.scoreRank[x] = rank;
      const top = scoreTop(context, buffer.scoreNumLogprobs[x]!);
      for (let i = 0; i < buffer.maxLogprobs; i++) {
        buffer.scoreTopToken[x * buffer.maxLogprobs + i] = top[i]?.tokenId ?? -1;
        buffer.scoreTopLogprob[x * buffer.maxLogprobs + i] = top[i]?.logprob ?? NaN;
      }
    }
    return count;
  }

  /** Pages may be shared, but one that a sequence of the step writes to may not. */
  #checkOwners(slots: readonly (readonly number[])[]): void {
    const stride = this.#stride;
    const owners = new Map<number, Set<number>>();
    slots.forEach((of, s) => {
      for (const slot of of) {
        const page = Math.floor(slot / stride);
        owners.set(page, (owners.get(page) ?? new Set()).add(s));
      }
    });
    slots.forEach((of, s) => {
      for (const slot of of.slice(of.length - this.buffer.queryLen[s]!)) {
        const page = Math.floor(slot / stride);
        assertEquals(owners.get(page)!.size, 1, `page ${page} is written and has one owner`);
      }
    });
  }

  /** Slots of a sequence's positions. */
  #slots(s: number): number[] {
    const { seqLen, pageTable, maxPagesPerSeq, kvIndex } = this.buffer;
    const { numPages } = this.#config;
    const pageSize = this.#pageSizes[kvIndex[s]!]!;
    assert(s === 0 || kvIndex[s]! >= kvIndex[s - 1]!, "sequences of a KV dtype stand together");
    const begin = s * maxPagesPerSeq;
    const pages = pageTable.subarray(begin, begin + Math.ceil(seqLen[s]! / pageSize));
    for (const page of pages) {
      assert(page >= 0 && page < numPages, `page ${page} exists`);
    }
    return Array.from({ length: seqLen[s]! }, (_, i) => pages[Math.floor(i / pageSize)]! * this.#stride + i % pageSize);
  }

  /** Stores the step's tokens; the positions before them hold what earlier steps stored. */
  #write(s: number, begin: number, slots: readonly number[]): void {
    const { queryLen, seqLen, tokens } = this.buffer;
    const count = queryLen[s]!;
    assert(count >= 1 && count <= seqLen[s]!, "query_len is 1 to seq_len");
    for (let i = 0; i < count; i++) {
      const token = tokens[begin + i]!;
      assert(token >= 0 && token < VOCAB_SIZE, `token ${token} exists`);
      this.#kv[slots[slots.length - count + i]!] = token + 1000 * this.buffer.kvIndex[s]!;
    }
  }

  /** What the slots hold, for a sequence. */
  #read(s: number, slots: readonly number[]): number[] {
    return slots.map((slot) => this.#kv[slot]! - 1000 * this.buffer.kvIndex[s]!);
  }

  /** Fills a row: number `index` of its sequence. */
  #sample(s: number, row: number, index: number, slots: readonly number[]): void {
    const { buffer } = this;
    assert(buffer.topP[s]! > 0 && buffer.topP[s]! <= 1 && buffer.repetitionPenalty[s]! > 0, "params are in range");
    const { edits, banned } = this.#readEdits(s);
    for (const token of this.#masked(row)) banned.add(token);
    const token = draw(this.#read(s, slots).reduce(mix, 7), {
      temperature: buffer.temperature[s]!,
      seedLow: buffer.seed[2 * s]!,
      seedHigh: buffer.seed[2 * s + 1]!,
      sampleIndex: buffer.sampleIndex[s]! + index,
      edits,
      banned,
    });
    buffer.sampled[row] = token;
    buffer.sampledLogprob[row] = -token - 1;
    for (let i = 0; i < buffer.maxLogprobs; i++) {
      // -1 fills up where there are fewer than asked for; here there are three.
      const isAsked = i < Math.min(3, buffer.numLogprobs[s]!);
      buffer.topToken[row * buffer.maxLogprobs + i] = isAsked ? (token + i) % VOCAB_SIZE : -1;
      buffer.topLogprob[row * buffer.maxLogprobs + i] = isAsked ? -token - 1 - i : NaN;
    }
  }

  /** Takes over the masks that may be new, as a GPU does: it keeps the others. */
  #takeMasks(): void {
    const { header, tokenMasks, tokenMaskWords } = this.buffer;
    const [, , , numMasks = 0, , hasRange = 0, first = 0, count = 0] = header;
    if (numMasks === 0) return assertEquals([hasRange, first, count], [0, 0, 0]);
    assert(hasRange === 1 && first >= 0 && count >= 0 && first + count <= numMasks, "new masks are among the step's");
    const [begin, end] = [first * tokenMaskWords, (first + count) * tokenMaskWords];
    this.#masks.set(tokenMasks.subarray(begin, end), begin);
    this.numMaskBytes += tokenMasks.subarray(begin, end).byteLength;
    const used = tokenMasks.subarray(0, numMasks * tokenMaskWords);
    assertEquals(used, this.#masks.subarray(0, used.length), "the buffer has all masks that the device has");
  }

  /** Tokens that the row's mask bans. */
  #masked(row: number): number[] {
    const { header, maskIndex, tokenMaskWords } = this.buffer;
    if (header[3] === 0 || maskIndex[row] === -1) return [];
    assert(maskIndex[row]! >= 0 && maskIndex[row]! < header[3]!, "the mask is one of the step's");
    const bits = (id: number) => this.#masks[maskIndex[row]! * tokenMaskWords + (id >>> 5)]! >>> (id & 31) & 1;
    return [...Array(VOCAB_SIZE).keys()].filter((id) => bits(id) === 0);
  }

  #readEdits(s: number): { edits: number; banned: Set<number> } {
    const { buffer } = this;
    const counts = buffer.presencePenalty[s] !== 0 || buffer.frequencyPenalty[s] !== 0;
    const repeats = buffer.repetitionPenalty[s] !== 1;
    const seen = new Set<number>();
    const banned = new Set<number>();
    let sum = 0;
    for (let i = buffer.editBegin[s]!; i < buffer.editBegin[s + 1]!; i++) {
      const token = buffer.editToken[i]!;
      assert(!seen.has(token), `token ${token} has one edit`);
      seen.add(token);
      const flags = buffer.editFlags[i]!;
      if ((flags & 2) !== 0) banned.add(token);
      sum += editHash({
        token,
        count: counts ? buffer.editCount[i]! : 0,
        isSeen: repeats && (flags & 1) !== 0,
        bias: buffer.editBias[i]!,
      });
    }
    return { edits: sum >>> 0, banned };
  }
}

/** A step buffer of plain memory, filled with what no step may read. */
export function newStepBuffer(config: FakeRunnerConfig): StepBufferViews {
  const {
    maxNumSeqs: s,
    maxNumBatchedTokens: t,
    numPages: p,
    maxLogitEdits: e = 4096,
    maxScores: x = 5,
    maxSamples: r = s,
  } = config;
  const l = 4;
  const i32 = (length: number) => new Int32Array(length).fill(-7);
  const f32 = (length: number) => new Float32Array(length).fill(NaN);
  return {
    maxNumSeqs: s,
    maxNumBatchedTokens: t,
    maxSamples: r,
    maxPagesPerSeq: p,
    maxLogprobs: l,
    maxLogitEdits: e,
    maxTokenMasks: s,
    tokenMaskWords: 2,
    maxScores: x,
    header: i32(16),
    tokens: i32(t),
    queryLen: i32(s),
    seqLen: i32(s),
    pageTable: i32(s * p),
    sample: i32(s),
    temperature: f32(s),
    topK: i32(s),
    topP: f32(s),
    minP: f32(s),
    repetitionPenalty: f32(s),
    presencePenalty: f32(s),
    frequencyPenalty: f32(s),
    seed: new Uint32Array(2 * s),
    sampleIndex: i32(s),
    numLogprobs: i32(s),
    editBegin: i32(s + 1),
    editToken: i32(e),
    editCount: i32(e),
    editFlags: i32(e),
    editBias: f32(e),
    maskIndex: i32(r),
    tokenMasks: new Uint32Array(2 * s),
    scoreIndex: i32(x),
    scoreToken: i32(x),
    scoreNumLogprobs: i32(x),
    kvIndex: i32(s),
    sampled: i32(r),
    sampledLogprob: f32(r),
    topToken: i32(r * l),
    topLogprob: f32(r * l),
    scoreLogprob: f32(x),
    scoreRank: i32(x),
    scoreTopToken: i32(x * l),
    scoreTopLogprob: f32(x * l),
  };
}
