/**
 * `octavo_sample` with an options object, and a plain f64 sampler that sorts the whole vocabulary to compare it with.
 *
 * @module
 */
import { SAMPLING } from "../../ffi/structs.ts";
import type { OpenLibrary } from "./_library.ts";

/** One change to a logit, as the step buffer's edit tables have it. */
export interface LogitEdit {
  readonly token: number;
  readonly count?: number;
  /** In prompt or output: the repetition penalty applies. */
  readonly seen?: boolean;
  readonly banned?: boolean;
  readonly bias?: number;
}

/** Sampling settings; absent ones are off. */
export interface Settings {
  readonly temperature?: number;
  readonly topK?: number;
  readonly topP?: number;
  readonly minP?: number;
  readonly repetitionPenalty?: number;
  readonly presencePenalty?: number;
  readonly frequencyPenalty?: number;
  readonly seed?: bigint;
  readonly sampleIndex?: number;
  readonly edits?: readonly LogitEdit[];
}

type SampleLibrary = OpenLibrary<"octavo_sample">;

/** Draws tokens; returns them with their log-probabilities. Throws the library's message when it refuses. */
export function sample(library: SampleLibrary, logits: Float32Array<ArrayBuffer>, settings: Settings, numDraws = 1) {
  const edits = settings.edits ?? [];
  const seed = settings.seed ?? 0n;
  const sampling = SAMPLING.encode({
    temperature: settings.temperature ?? 1,
    top_p: settings.topP ?? 1,
    min_p: settings.minP ?? 0,
    repetition_penalty: settings.repetitionPenalty ?? 1,
    presence_penalty: settings.presencePenalty ?? 0,
    frequency_penalty: settings.frequencyPenalty ?? 0,
    top_k: settings.topK ?? 0,
    sample_index: settings.sampleIndex ?? 0,
    seed_low: Number(seed & 0xffffffffn),
    seed_high: Number(seed >> 32n),
    num_edits: edits.length,
    num_draws: numDraws,
  });
  const tokens = new Int32Array(numDraws);
  const logprobs = new Float32Array(numDraws);
  library.check(library.symbols.octavo_sample(
    sampling,
    logits,
    logits.length,
    Int32Array.from(edits, (edit) => edit.token),
    Int32Array.from(edits, (edit) => edit.count ?? 0),
    Int32Array.from(edits, (edit) => (edit.seen ? 1 : 0) | (edit.banned ? 2 : 0)),
    Float32Array.from(edits, (edit) => edit.bias ?? 0),
    tokens,
    logprobs,
  ));
  return { tokens, logprobs };
}

/** The logits after penalties, bias and bans, in f64 but for the settings' rounding to f32. */
export function referenceLogits(logits: ArrayLike<number>, settings: Settings): number[] {
  const edited = Array.from(logits);
  const penalty = Math.fround(settings.repetitionPenalty ?? 1);
  for (const { token, count = 0, seen, banned, bias = 0 } of settings.edits ?? []) {
    let logit = edited[token]!;
    if (seen) logit = logit > 0 ? logit / penalty : logit * penalty;
    logit -= Math.fround(settings.frequencyPenalty ?? 0) * count;
    if (count > 0) logit -= Math.fround(settings.presencePenalty ?? 0);
    edited[token] = banned ? -Infinity : logit + Math.fround(bias);
  }
  return edited;
}

/** What may be drawn, with its probability, by a full sort: temperature, top-k, top-p, min-p. */
export function referenceDistribution(logits: ArrayLike<number>, settings: Settings): Map<number, number> {
  const edited = referenceLogits(logits, settings);
  const order = [...edited.keys()].filter((i) => edited[i]! > -Infinity)
    .sort((a, b) => edited[b]! - edited[a]! || a - b);
  const temperature = Math.fround(settings.temperature ?? 1);
  const max = edited[order[0]!]!;
  let kept = order.map((token) => ({ token, weight: Math.exp((edited[token]! - max) / temperature) }));
  if (temperature === 0) kept = [{ token: order[0]!, weight: 1 }];
  if (settings.topK) kept = kept.slice(0, settings.topK);
  const topP = Math.fround(settings.topP ?? 1);
  if (topP < 1) {
    const total = kept.reduce((sum, { weight }) => sum + weight, 0);
    let sum = 0;
    const length = kept.findIndex(({ weight }) => (sum += weight) >= topP * total) + 1;
    kept = kept.slice(0, length || kept.length);
  }
  kept = kept.filter(({ weight }) => weight >= Math.fround(settings.minP ?? 0));
  const total = kept.reduce((sum, { weight }) => sum + weight, 0);
  return new Map(kept.map(({ token, weight }) => [token, weight / total]));
}

/** Numbers in [0, 1) that are the same in every run (mulberry32). */
export function makeRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** Normally distributed logits (Box-Muller), rounded to f32. */
export function randomLogits(length: number, spread: number, random: () => number): Float32Array<ArrayBuffer> {
  return Float32Array.from(
    { length },
    () => spread * Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random()),
  );
}
