/**
 * Finds stop strings in text that arrives in pieces, whatever the pieces are.
 *
 * Held back is only the longest end of the text that is a proper beginning of a stop string. Each stop string has a
 * Knuth-Morris-Pratt automaton, whose state is the length of that end; the stop string that is complete first wins,
 * of several complete at once the longest.
 *
 * @module
 */

/** What a piece of text made certain. */
export interface StopMatch {
  /** Text that cannot become part of a stop string any more; ends with the stop string, or before it. */
  readonly text: string;
  /** The stop string found, or null. Nothing may be pushed after it. */
  readonly stop: string | null;
}

export class StopMatcher {
  readonly #automata: readonly Automaton[];
  readonly #includeStop: boolean;
  #held = "";

  /** @param stops Non-empty strings. @param options.includeStop Leave the stop string in the text. */
  constructor(stops: readonly string[], options: { includeStop: boolean }) {
    this.#automata = stops.map((stop) => new Automaton(stop)).sort((a, b) => b.stop.length - a.stop.length);
    this.#includeStop = options.includeStop;
  }

  push(piece: string): StopMatch {
    if (this.#automata.length === 0) return { text: piece, stop: null };
    const text = this.#held + piece;
    for (let i = this.#held.length; i < text.length; i++) {
      const code = text.charCodeAt(i);
      let found: string | null = null;
      for (const automaton of this.#automata) {
        if (automaton.push(code)) found ??= automaton.stop;
      }
      if (found !== null) {
        this.#held = "";
        return { text: text.slice(0, i + 1 - (this.#includeStop ? 0 : found.length)), stop: found };
      }
    }
    let numHeld = 0;
    for (const automaton of this.#automata) numHeld = Math.max(numHeld, automaton.state);
    this.#held = text.slice(text.length - numHeld);
    return { text: text.slice(0, text.length - numHeld), stop: null };
  }

  /** The text held back: no more follows, so it did not become a stop string. */
  flush(): string {
    const text = this.#held;
    this.#held = "";
    return text;
  }
}

/** Knuth-Morris-Pratt: `state` characters of `stop` are the end of the text so far. */
class Automaton {
  state = 0;
  /** `#border[k]`: length of the longest proper beginning of stop[0 .. k] that is also its end. */
  readonly #border: Uint32Array;

  constructor(readonly stop: string) {
    this.#border = new Uint32Array(stop.length);
    let k = 0;
    for (let i = 1; i < stop.length; i++) {
      while (k > 0 && stop[i] !== stop[k]) k = this.#border[k - 1]!;
      if (stop[i] === stop[k]) k++;
      this.#border[i] = k;
    }
  }

  /** Reads one UTF-16 unit. True: the stop string is complete. */
  push(code: number): boolean {
    while (this.state > 0 && this.stop.charCodeAt(this.state) !== code) this.state = this.#border[this.state - 1]!;
    if (this.stop.charCodeAt(this.state) === code) this.state++;
    return this.state === this.stop.length;
  }
}
