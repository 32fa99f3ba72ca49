/**
 * The model families Octavo runs, and what tells them apart.
 *
 * @module
 */

import type { ModelConfig } from "./types.ts";

export interface Architecture {
  readonly name: string;
  readonly activation: ModelConfig["activation"];
  /** Scaled embeddings, and norm weights stored less one in safetensors. */
  readonly isGemma: boolean;
  /** RMSNorm of each q and k head. */
  readonly hasQkNorm: boolean;
  /** Norms of the attention's and the feed-forward's output. */
  readonly hasPostNorms: boolean;
  /** Whether q, k and v must have a bias; others may. */
  readonly needsQkvBias: boolean;
  /** Every n-th layer sees all keys, those before it a window; 0: the file says. */
  readonly fullLayerEvery: number;
}

const llama = {
  activation: "silu",
  isGemma: false,
  hasQkNorm: false,
  hasPostNorms: false,
  needsQkvBias: false,
  fullLayerEvery: 0,
} as const;

const gemma2 = { ...llama, activation: "gelu_tanh", isGemma: true, hasPostNorms: true, fullLayerEvery: 2 } as const;

export const architectures: Readonly<Record<string, Architecture>> = {
  llama: { ...llama, name: "llama" },
  mistral: { ...llama, name: "mistral" },
  qwen2: { ...llama, name: "qwen2", needsQkvBias: true },
  qwen3: { ...llama, name: "qwen3", hasQkNorm: true },
  gemma2: { ...gemma2, name: "gemma2" },
  gemma3: { ...gemma2, name: "gemma3", hasQkNorm: true, fullLayerEvery: 6 },
};

/** The architecture of that name, or undefined. */
export function architectureOf(name: string): Architecture | undefined {
  return Object.hasOwn(architectures, name) ? architectures[name] : undefined;
}
