/**
 * Writes a schedule into the step buffer.
 *
 * ```
 *  sequence s        0        1        2
 *  query_len         1        1        5
 *  tokens          [ a ]    [ b ]    [ c c c c c ]
 *  page_table      row 0    row 1    row 2          first numPages entries of each
 *  sample            1        1        0            c's prompt goes on: a has row 0 of the results, b row 1
 *  edit_begin        0        0        3        3   (numSeqs + 1)
 * ```
 *
 * @module
 */

import { MaskTable } from "./mask_table.ts";
import type { StepBufferViews } from "./native.ts";
import type { Sequence } from "./sequence.ts";

/** What a row of the page table holds already. */
interface Row {
  sequence: Sequence | null;
  admission: number;
  numPages: number;
}

export class BatchWriter {
  readonly #buffer: StepBufferViews;
  readonly #rows: readonly Row[];
  readonly #maskTable: MaskTable;
  /** What each place of this buffer's masks holds already. */
  readonly #masks: (Uint32Array | null)[];
  #numScores = 0;

  /** @param maskTable That of all buffers of an engine, which are written in turn. */
  constructor(buffer: StepBufferViews, maskTable = new MaskTable(buffer.maxTokenMasks)) {
    this.#buffer = buffer;
    this.#maskTable = maskTable;
    this.#rows = Array.from({ length: buffer.maxNumSeqs }, () => ({ sequence: null, admission: 0, numPages: 0 }));
    this.#masks = Array.from({ length: buffer.maxTokenMasks }, () => null);
  }

  /** Fills the input tables. Steady decoding writes one token, one length and at most one page id a sequence. */
  write(batch: readonly Sequence[]): void {
    const { header, editBegin } = this.#buffer;
    let numTokens = 0;
    let numEdits = 0;
    let numRows = 0;
    this.#maskTable.begin();
    this.#numScores = 0;
    for (let s = 0; s < batch.length; s++) {
      const sequence = batch[s]!;
      this.#writeTokens(sequence, numTokens);
      if (sequence.numScores > 0) this.#writeScores(sequence, numTokens);
      numTokens += sequence.queryLen;
      this.#writePages(s, sequence);
      this.#writeSequence(s, sequence);
      numRows += this.#writeMaskIndex(sequence, numRows);
      editBegin[s] = numEdits;
      if (sequence.edits && countRows(sequence) > 0) {
        sequence.edits.write(this.#buffer, numEdits);
        numEdits += sequence.edits.length;
      }
    }
    editBegin[batch.length] = numEdits;
    header[0] = batch.length;
    header[1] = numTokens;
    header[2] = numEdits;
    header[4] = this.#numScores;
    this.#writeMasks();
  }

  /** Asks for the log-probabilities of the prompt's tokens that follow those of the step. @param begin Its first token. */
  #writeScores({ request, numComputed, scoreBegin, numScores }: Sequence, begin: number): void {
    const { scoreIndex, scoreToken, scoreNumLogprobs } = this.#buffer;
    const from = this.#numScores;
    for (let i = 0; i < numScores; i++) scoreIndex[from + i] = begin + scoreBegin - numComputed + i;
    scoreToken.set(request.prompt.subarray(scoreBegin + 1, scoreBegin + 1 + numScores), from);
    scoreNumLogprobs.fill(request.scores!.numTop, from, from + numScores);
    this.#numScores += numScores;
  }

  #writeTokens(sequence: Sequence, at: number): void {
    const { numComputed, queryLen, numGuesses, guesser } = sequence;
    const { tokens } = this.#buffer;
    sequence.copyTokens(tokens, at, numComputed, queryLen - numGuesses);
    if (numGuesses > 0) tokens.set(guesser!.guesses.subarray(0, numGuesses), at + queryLen - numGuesses);
  }

  /** One a row, all the same, also for the sequences of one request; returns their number. */
  #writeMaskIndex(sequence: Sequence, firstRow: number): number {
    const numRows = countRows(sequence);
    if (numRows === 0) return 0;
    const mask = this.#maskOf(sequence);
    const place = mask === null ? -1 : this.#maskTable.place(mask);
    this.#buffer.maskIndex.fill(place, firstRow, firstRow + numRows);
    return numRows;
  }

  #maskOf({ request, choice }: Sequence): Uint32Array | null {
    const { tokenMaskWords } = this.#buffer;
    if (choice !== null) return choice.mask(tokenMaskWords);
    return request.tokenMask ??= tokenMask(request.sampling.allowedTokenIds, tokenMaskWords);
  }

  /** Brings this buffer's masks up to the table, as far as the step names them; the device reads only the new ones. */
  #writeMasks(): void {
    const { header, tokenMasks, tokenMaskWords } = this.#buffer;
    const { numPlaces, firstNew, endNew } = this.#maskTable;
    for (let place = 0; place < numPlaces; place++) {
      const mask = this.#maskTable.at(place);
      if (mask === null || this.#masks[place] === mask) continue;
      tokenMasks.set(mask, place * tokenMaskWords);
      this.#masks[place] = mask;
    }
    header[3] = numPlaces;
    header[5] = numPlaces > 0 ? 1 : 0;
    header[6] = firstNew;
    header[7] = endNew - firstNew;
  }

  /** A page table only grows while its sequence runs, so a row that holds its beginning needs only the rest. */
  #writePages(s: number, sequence: Sequence): void {
    const row = this.#rows[s]!;
    if (row.sequence !== sequence || row.admission !== sequence.numAdmissions) {
      row.sequence = sequence;
      row.admission = sequence.numAdmissions;
      row.numPages = 0;
    }
    if (row.numPages === sequence.numPages) return;
    const begin = s * this.#buffer.maxPagesPerSeq;
    this.#buffer.pageTable.set(sequence.pages.subarray(row.numPages, sequence.numPages), begin + row.numPages);
    row.numPages = sequence.numPages;
  }

  #writeSequence(s: number, sequence: Sequence): void {
    const buffer = this.#buffer;
    const { sampling } = sequence.request;
    buffer.queryLen[s] = sequence.queryLen;
    buffer.seqLen[s] = sequence.numComputed + sequence.queryLen;
    buffer.sample[s] = countRows(sequence);
    buffer.temperature[s] = sampling.temperature;
    buffer.topK[s] = sampling.topK;
    buffer.topP[s] = sampling.topP;
    buffer.minP[s] = sampling.minP;
    buffer.repetitionPenalty[s] = sampling.repetitionPenalty;
    buffer.presencePenalty[s] = sampling.presencePenalty;
    buffer.frequencyPenalty[s] = sampling.frequencyPenalty;
    buffer.seed[2 * s] = sequence.seedLow;
    buffer.seed[2 * s + 1] = sequence.seedHigh;
    buffer.sampleIndex[s] = sequence.numSampled;
    buffer.numLogprobs[s] = sampling.logprobs ?? -1;
    buffer.kvIndex[s] = sequence.request.kvIndex;
  }
}

/** Tokens sampled for a sequence: one after its last token, if this step computes that, and one after each guess. */
export function countRows({ queryLen, numGuesses, numPending }: Sequence): number {
  return queryLen - numGuesses === numPending ? 1 + numGuesses : 0;
}

/** A mask that lets these tokens be sampled; null for all. */
function tokenMask(allowed: readonly number[] | null, numWords: number): Uint32Array | null {
  if (allowed === null) return null;
  const mask = new Uint32Array(numWords);
  for (const id of allowed) mask[id >>> 5]! |= 1 << (id & 31);
  return mask;
}
