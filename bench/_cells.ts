/**
 * What the end-to-end benches run: cells of equal requests, and figures of many times.
 *
 * @module
 */

import type { SamplingParams } from "../engine/types.ts";
import { samplingParams } from "../engine/sampling_params.ts";

/** `streams` requests of `prompt` tokens at once, each of which gets `new` tokens. */
export interface Cell {
  readonly streams: number;
  readonly prompt: number;
  readonly new: number;
}

/** "8x1000+256,..." @throws {RangeError} A cell is not written so. */
export function parseCells(text: string): Cell[] {
  return text.split(",").filter((one) => one.trim() !== "").map((one) => {
    const match = one.trim().match(/^(\d+)x(\d+)(?:\+(\d+))?$/);
    if (match === null) throw new RangeError(`Expected cells such as 8x1000+256, received "${one}"`);
    return { streams: Number(match[1]), prompt: Number(match[2]), new: Number(match[3] ?? 1) };
  });
}

/** "8 x 1000 + 256" */
export function cellName(cell: Cell): string {
  return `${cell.streams} x ${cell.prompt} + ${cell.new}`;
}

/** Numbers in [0, 1) that are the same in every run (mulberry32). */
export function makeRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** A prompt of random tokens, away from the vocabulary's ends, where special tokens lie. */
export function randomPrompt(length: number, vocabSize: number, random: () => number): number[] {
  const low = Math.floor(vocabSize / 100);
  const span = Math.floor(vocabSize * 0.9) - low;
  return Array.from({ length }, () => low + Math.floor(random() * span));
}

/** Greedy, to the full length. */
export function benchSampling(maxTokens: number): SamplingParams {
  return samplingParams({ maxTokens, temperature: 0, ignoreEos: true }, {});
}

/** The value below which `share` of the sorted values lie. */
export function percentile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? NaN;
}

/** @returns The value with so many digits after the point. */
export function round(value: number, digits = 3): number {
  return Number(value.toFixed(digits));
}

/** Arithmetic mean. */
export function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
