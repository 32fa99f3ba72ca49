/**
 * Finds faults (`--check-pages`): while a page has a name, others may share it, so its bytes must not change. Their checksum
 * is taken when they are certain and compared whenever the page is found, loses its name, or nothing runs.
 *
 * Every checksum waits for the device, so this is for finding faults and not for serving.
 *
 * @module
 */

import { EngineError } from "./errors.ts";

export class PageGuard {
  readonly #checksumOf: (page: number) => bigint;
  /** Of pages with names; null: not taken yet. */
  readonly #checksums = new Map<number, bigint | null>();
  /** Comparisons so far. */
  numChecked = 0;

  /** @param checksumOf Of a page's bytes after all steps and transfers submitted. */
  constructor(checksumOf: (page: number) => bigint) {
    this.#checksumOf = checksumOf;
  }

  /** The page has got a name. Its bytes may still be on their way from the host tier. */
  named(page: number): void {
    this.#checksums.set(page, null);
  }

  /** Takes the checksums of pages named since. When every transfer for them has been submitted. */
  settle(): void {
    for (const [page, checksum] of this.#checksums) {
      if (checksum === null) this.#checksums.set(page, this.#checksumOf(page));
    }
  }

  /** A named page is about to be shared. @throws {EngineError} It has changed. */
  check(page: number): void {
    const expected = this.#checksums.get(page) ?? null;
    if (expected === null) return;
    this.numChecked++;
    const found = this.#checksumOf(page);
    if (found === expected) return;
    throw new EngineError(
      `Page ${page} changed while others could share it: its checksum was ${expected.toString(16)} and is ` +
        `${found.toString(16)}`,
    );
  }

  /** The page's name is void. @throws {EngineError} It had changed. */
  unnamed(page: number): void {
    this.check(page);
    this.#checksums.delete(page);
  }

  /** @throws {EngineError} A named page has changed. */
  checkAll(): void {
    this.settle();
    for (const page of this.#checksums.keys()) this.check(page);
  }
}
