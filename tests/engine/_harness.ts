/** Drives a StepLoop with the fake model and collects what each request received. */

import { assertEquals } from "@std/assert";
import { Counters } from "../../engine/counters.ts";
import type { KvScaleWindow } from "../../engine/kv_scale_window.ts";
import { HostTier } from "../../engine/host_tier.ts";
import { PageGuard } from "../../engine/page_guard.ts";
import type { SpeculationOptions } from "../../engine/speculator.ts";
import { StepLoop } from "../../engine/step_loop.ts";
import { promptLogprobs } from "../../engine/prompt_scores.ts";
import type { Delta, FinishReason, PromptLogprob, SamplingParams, Usage } from "../../engine/types.ts";
import { EOS, FakeRunner, type FakeRunnerConfig, greedy, TABLE, VOCAB_SIZE } from "./_fake_model.ts";

/** What one sequence of a request received. */
export interface Received {
  text: string;
  tokenIds: number[];
  finishReason: FinishReason | null;
  stopReason: string | number | null;
}

/** What a request received. */
export class Transcript {
  readonly sequences: Received[];
  readonly deltas: Delta[] = [];
  promptLogprobs: readonly (PromptLogprob | null)[] | null = null;
  usage: Usage | null = null;
  error: string | null = null;
  numTerminals = 0;

  constructor(readonly prompt: readonly number[], readonly sampling: SamplingParams) {
    this.sequences = Array.from(
      { length: sampling.n },
      () => ({ text: "", tokenIds: [], finishReason: null, stopReason: null }),
    );
  }

  add(delta: Delta): void {
    const sequence = this.sequences[delta.index]!;
    assertEquals(sequence.finishReason, null, "no delta follows a sequence's last");
    this.deltas.push(delta);
    sequence.text += delta.text;
    sequence.tokenIds.push(...delta.tokenIds);
    sequence.finishReason = delta.finishReason;
    sequence.stopReason = delta.stopReason;
  }
}

export class Harness {
  readonly runner: FakeRunner;
  readonly counters = new Counters();
  readonly loop: StepLoop;
  readonly hostTier: HostTier | null;
  readonly pageGuard: PageGuard | null;
  readonly transcripts = new Map<number, Transcript>();
  readonly warnings: string[] = [];
  /** The loop's clock. */
  nowMs = 0;

  constructor(
    readonly config: FakeRunnerConfig,
    { caches = true, looksAhead = false, checksPages = false, speculation = null, kvScaleWindow }: {
      caches?: boolean;
      looksAhead?: boolean;
      checksPages?: boolean;
      speculation?: SpeculationOptions | null;
      /** Makes the window; the harness's runner is there. */
      kvScaleWindow?: (runner: FakeRunner) => KvScaleWindow;
    } = {},
  ) {
    this.runner = new FakeRunner(config);
    const { numPages, numHostPages = 0 } = config;
    this.hostTier = numHostPages > 0 ? new HostTier(this.runner, { numHostPages, numPages, pageBytes: 10 }) : null;
    this.loop = new StepLoop(this.runner, {
      pageSize: config.pageSize,
      morePageSizes: config.morePageSizes ?? [],
      numPages: config.numPages,
      vocabSize: VOCAB_SIZE,
      tokenTable: TABLE,
      eosTokenIds: [EOS],
      counters: this.counters,
      kvFingerprint: caches ? "fake" : null,
      kvScaleWindow: kvScaleWindow?.(this.runner) ?? null,
      hostTier: this.hostTier,
      pageGuard: this.pageGuard = checksPages ? new PageGuard((page) => this.runner.pageChecksum(page)) : null,
      looksAhead,
      speculation,
      warn: (message) => this.warnings.push(message),
      now: () => this.nowMs,
    });
  }

  submit(
    prompt: readonly number[],
    sampling: SamplingParams = greedy(),
    { priority = 0, cacheSalt = "", kvIndex = 0, deadlineMs = null }: {
      priority?: number;
      cacheSalt?: string;
      kvIndex?: number;
      deadlineMs?: number | null;
    } = {},
  ): number {
    const key = this.transcripts.size;
    this.transcripts.set(key, new Transcript(prompt, sampling));
    this.loop.submit({
      key,
      id: `request-${key}`,
      prompt: Int32Array.from(prompt),
      sampling,
      priority,
      cacheSalt,
      kvIndex,
      deadlineMs,
    });
    return key;
  }

  abort(key: number): void {
    this.loop.abort(key);
    this.collect();
  }

  step(): void {
    this.loop.step();
    this.collect();
  }

  collect(): void {
    for (const outcome of this.loop.takeOutcomes()) {
      const transcript = this.transcripts.get(outcome.key)!;
      assertEquals(transcript.numTerminals, 0, "nothing follows a terminal event");
      if (outcome.promptScores !== null) {
        assertEquals([transcript.promptLogprobs, transcript.deltas], [null, []], "a prompt's scores come once, first");
        transcript.promptLogprobs = promptLogprobs(transcript.prompt, outcome.promptScores);
      }
      for (const delta of outcome.deltas) transcript.add(delta);
      transcript.usage = outcome.usage;
      transcript.error = outcome.error;
      if (outcome.usage !== null || outcome.error !== null) transcript.numTerminals++;
    }
  }

  /** Steps until nothing is left. */
  finish(): void {
    for (let steps = 0; !this.loop.isIdle; steps++) {
      if (steps > 10_000) throw new Error("The loop does not come to an end");
      this.step();
    }
    assertEquals(this.warnings, []);
    assertEquals(this.loop.numFreePages, this.config.numPages);
  }

  /** Token ids of a request's sequences. */
  tokens(key: number): number[][] {
    return this.transcripts.get(key)!.sequences.map((sequence) => sequence.tokenIds);
  }
}
