/**
 * The step buffer of octavo.h: one block of memory with a typed-array view for each table. Its layout is the library's
 * (`octavo_step_layout_get`), so it is defined once.
 *
 * @module
 */

import type { Library } from "./library.ts";
import { STEP_LAYOUT } from "./structs.ts";

/** Sizes of the tables. */
export interface StepBufferCapacity {
  readonly maxNumSeqs: number;
  readonly maxNumBatchedTokens: number;
  /** Rows. Default: maxNumSeqs. */
  readonly maxSamples?: number;
  readonly maxPagesPerSeq: number;
  readonly maxLogprobs: number;
  readonly maxLogitEdits: number;
  /** Default 0. */
  readonly maxTokenMasks?: number;
  /** 32-bit words of a mask. Default 0. */
  readonly tokenMaskWords?: number;
  /** Default 0. */
  readonly maxScores?: number;
}

type I32 = Int32Array<ArrayBuffer>;
type F32 = Float32Array<ArrayBuffer>;

/** Views of one step buffer; meanings and shapes stand in octavo.h under the same names in snake_case. */
export class StepBuffer implements StepBufferCapacity {
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly maxNumSeqs: number;
  readonly maxNumBatchedTokens: number;
  readonly maxSamples: number;
  readonly maxPagesPerSeq: number;
  readonly maxLogprobs: number;
  readonly maxLogitEdits: number;
  readonly maxTokenMasks: number;
  readonly tokenMaskWords: number;
  readonly maxScores: number;
  /** [0] sequences, [1] tokens, [2] logit edits, [3] token masks, [4] scores of the step; [5 .. 7] new masks. */
  readonly header: I32;
  readonly tokens: I32;
  readonly queryLen: I32;
  readonly seqLen: I32;
  /** Sequence s starts at s * maxPagesPerSeq. */
  readonly pageTable: I32;
  /** Rows of each sequence. */
  readonly sample: I32;
  readonly temperature: F32;
  readonly topK: I32;
  readonly topP: F32;
  readonly minP: F32;
  readonly repetitionPenalty: F32;
  readonly presencePenalty: F32;
  readonly frequencyPenalty: F32;
  /** Low and high word of sequence s at 2 s and 2 s + 1. */
  readonly seed: Uint32Array<ArrayBuffer>;
  readonly sampleIndex: I32;
  readonly numLogprobs: I32;
  readonly editBegin: I32;
  readonly editToken: I32;
  readonly editCount: I32;
  readonly editFlags: I32;
  readonly editBias: F32;
  /** By row. */
  readonly maskIndex: I32;
  /** Mask m starts at m * tokenMaskWords. */
  readonly tokenMasks: Uint32Array<ArrayBuffer>;
  readonly scoreIndex: I32;
  readonly scoreToken: I32;
  readonly scoreNumLogprobs: I32;
  /** Never falls from a sequence to the next. */
  readonly kvIndex: I32;
  /** By row, as what follows. */
  readonly sampled: I32;
  readonly sampledLogprob: F32;
  /** Row r starts at r * maxLogprobs. */
  readonly topToken: I32;
  readonly topLogprob: F32;
  readonly scoreLogprob: F32;
  readonly scoreRank: I32;
  /** Score x starts at x * maxLogprobs. */
  readonly scoreTopToken: I32;
  readonly scoreTopLogprob: F32;

  /** @param engineConfig An encoded octavo_engine_config. @throws {NativeError} It is out of range. */
  constructor(library: Library, engineConfig: Uint8Array<ArrayBuffer>, capacity: StepBufferCapacity) {
    const layoutBytes = new Uint8Array(STEP_LAYOUT.sizeBytes);
    library.check(library.symbols.octavo_step_layout_get(engineConfig, layoutBytes));
    const layout = STEP_LAYOUT.decode(layoutBytes);
    const { maxNumSeqs: s, maxNumBatchedTokens: t, maxPagesPerSeq: p, maxLogprobs: l, maxLogitEdits: e } = capacity;
    const { maxSamples: r = s, maxTokenMasks: m = 0, tokenMaskWords: w = 0, maxScores: x = 0 } = capacity;
    const memory = new ArrayBuffer(layout.total_bytes);
    const i32 = (offset: number, length: number) => new Int32Array(memory, offset, length);
    const f32 = (offset: number, length: number) => new Float32Array(memory, offset, length);
    this.bytes = new Uint8Array(memory);
    this.maxNumSeqs = s;
    this.maxNumBatchedTokens = t;
    this.maxSamples = r;
    this.maxPagesPerSeq = p;
    this.maxLogprobs = l;
    this.maxLogitEdits = e;
    this.maxTokenMasks = m;
    this.tokenMaskWords = w;
    this.maxScores = x;
    this.header = i32(layout.header, 16);
    this.tokens = i32(layout.tokens, t);
    this.queryLen = i32(layout.query_len, s);
    this.seqLen = i32(layout.seq_len, s);
    this.pageTable = i32(layout.page_table, s * p);
    this.sample = i32(layout.sample, s);
    this.temperature = f32(layout.temperature, s);
    this.topK = i32(layout.top_k, s);
    this.topP = f32(layout.top_p, s);
    this.minP = f32(layout.min_p, s);
    this.repetitionPenalty = f32(layout.repetition_penalty, s);
    this.presencePenalty = f32(layout.presence_penalty, s);
    this.frequencyPenalty = f32(layout.frequency_penalty, s);
    this.seed = new Uint32Array(memory, layout.seed, s * 2);
    this.sampleIndex = i32(layout.sample_index, s);
    this.numLogprobs = i32(layout.num_logprobs, s);
    this.editBegin = i32(layout.edit_begin, s + 1);
    this.editToken = i32(layout.edit_token, e);
    this.editCount = i32(layout.edit_count, e);
    this.editFlags = i32(layout.edit_flags, e);
    this.editBias = f32(layout.edit_bias, e);
    this.maskIndex = i32(layout.mask_index, r);
    this.tokenMasks = new Uint32Array(memory, layout.token_masks, m * w);
    this.scoreIndex = i32(layout.score_index, x);
    this.scoreToken = i32(layout.score_token, x);
    this.scoreNumLogprobs = i32(layout.score_num_logprobs, x);
    this.kvIndex = i32(layout.kv_index, s);
    this.sampled = i32(layout.sampled, r);
    this.sampledLogprob = f32(layout.sampled_logprob, r);
    this.topToken = i32(layout.top_token, r * l);
    this.topLogprob = f32(layout.top_logprob, r * l);
    this.scoreLogprob = f32(layout.score_logprob, x);
    this.scoreRank = i32(layout.score_rank, x);
    this.scoreTopToken = i32(layout.score_top_token, x * l);
    this.scoreTopLogprob = f32(layout.score_top_logprob, x * l);
  }
}
