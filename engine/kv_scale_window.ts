/**
 * The window over which an FP8 cache's scales are calculated: the first tokens of real requests.
 *
 * ```
 *  step 1            step 2 ..           the step that reaches numTokens        from here on
 *  sets scales       stores with them,   end(): the scales of all that          they stay; pages stored with
 *  from its values   counts its values   was counted                            others are void
 * ```
 * Only steps of requests count: nothing that warms a device up passes here.
 *
 * @module
 */

/** Tokens of a window where nothing else is said. */
export const KV_SCALE_TOKENS = 512;

/** Who calculates: `NativeEngine` of ffi/. */
export interface KvScaleSource {
  kvScales(): Float32Array<ArrayBuffer>;
  freezeKvScales(): void;
}

export class KvScaleWindow {
  readonly #source: KvScaleSource;
  readonly #wanted: number;
  readonly #onEnd: (scales: Float32Array<ArrayBuffer>, numTokens: number) => void;
  #numTokens = 0;
  #hasEnded = false;

  /**
   * @param numTokens Tokens after which the scales are set for good; the step that reaches it counts as a whole.
   * @param onEnd Told the scales, `[numLayers][2][numKvHeads]`, and how many tokens were counted.
   */
  constructor(
    source: KvScaleSource,
    numTokens: number,
    onEnd: (scales: Float32Array<ArrayBuffer>, numTokens: number) => void,
  ) {
    this.#source = source;
    this.#wanted = numTokens;
    this.#onEnd = onEnd;
  }

  /** Takes note of a step that was submitted. */
  count(numTokens: number): void {
    if (!this.#hasEnded) this.#numTokens += numTokens;
  }

  /** Whether {@linkcode end} is due. */
  get isOver(): boolean {
    return !this.#hasEnded && this.#numTokens >= this.#wanted;
  }

  /**
   * Sets the scales for good. No step may be under way.
   *
   * @returns What of the scales decides a page's contents, and whether pages stored so far are void.
   */
  end(): { fingerprint: string; isChanged: boolean } {
    const before = this.#source.kvScales();
    this.#source.freezeKvScales();
    this.#hasEnded = true;
    const scales = this.#source.kvScales();
    this.#onEnd(scales, this.#numTokens);
    return { fingerprint: scales.join(), isChanged: scales.some((scale, i) => scale !== before[i]) };
  }
}
