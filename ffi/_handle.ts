/**
 * What all native handles share: use after close is an error, never a crash; a forgotten handle is freed by the
 * garbage collector.
 *
 * @module
 */

import type { Library } from "./library.ts";

type Free = (pointer: Deno.PointerObject) => void;

// Holds the Library too: its code must stay mapped until the last handle is gone.
const registry = new FinalizationRegistry<{ free: Free; pointer: Deno.PointerObject; library: Library }>(
  ({ free, pointer, library }) => {
    free(pointer);
    library.countHandle(-1);
  },
);

/** Base class of native handles. */
export abstract class Handle implements Disposable {
  readonly library: Library;
  readonly #kind: string;
  readonly #free: Free;
  #pointer: Deno.PointerObject | null;

  protected constructor(library: Library, kind: string, pointer: Deno.PointerObject, free: Free) {
    this.library = library;
    this.#kind = kind;
    this.#pointer = pointer;
    this.#free = free;
    library.countHandle(1);
    registry.register(this, { free, pointer, library }, this);
  }

  /** @throws {TypeError} After `close()`. */
  protected get pointer(): Deno.PointerObject {
    if (this.#pointer === null) throw new TypeError(`Cannot use a closed ${this.#kind}`);
    return this.#pointer;
  }

  /** Frees the native object; further calls do nothing. */
  close(): void {
    if (this.#pointer === null) return;
    registry.unregister(this);
    this.#free(this.#pointer);
    this.#pointer = null;
    this.library.countHandle(-1);
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
