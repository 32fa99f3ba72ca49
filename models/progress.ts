/**
 * How far a long transfer has come, and how a person is told.
 *
 * @module
 */

export interface Progress {
  /** What is being fetched. */
  readonly label: string;
  /** Bytes that are there; where there is a unit, so many of it. */
  readonly doneBytes: number;
  /** Bytes in all. */
  readonly totalBytes: number;
  /** What is counted instead of bytes, in the plural. */
  readonly unit?: string;
}

/** Called often; must be quick. */
export type ProgressListener = (progress: Progress) => void;

/** Where {@linkcode progressPrinter} writes. */
export interface ProgressOutput {
  readonly isTerminal: boolean;
  write(text: string): void;
}

const barCells = 30;
const redrawMs = 100;
const lineMs = 1000;

/** Standard error, which leaves standard output to programs. */
function standardErrorOutput(): ProgressOutput {
  const encoder = new TextEncoder();
  return {
    isTerminal: Deno.stderr.isTerminal(),
    write: (text) => void Deno.stderr.writeSync(encoder.encode(text)),
  };
}

/**
 * Draws a bar on a terminal; elsewhere writes a line at the start, at the end, and between them at most one a tenth and
 * one a second.
 *
 * @param now The time in milliseconds.
 */
export function progressPrinter(
  output: ProgressOutput = standardErrorOutput(),
  now: () => number = () => performance.now(),
): ProgressListener {
  return output.isTerminal ? barPrinter(output, now) : linePrinter(output, now);
}

function barPrinter(output: ProgressOutput, now: () => number): ProgressListener {
  let label = "";
  let drawnAt = -Infinity;
  let isDone = false;
  return (progress) => {
    if (progress.label !== label) [label, drawnAt, isDone] = [progress.label, -Infinity, false];
    const isEnd = progress.doneBytes >= progress.totalBytes;
    if (isDone || (!isEnd && now() - drawnAt < redrawMs)) return;
    drawnAt = now();
    isDone = isEnd;
    const filled = Math.floor(fraction(progress) * barCells);
    const bar = "#".repeat(filled) + ".".repeat(barCells - filled);
    output.write(`\r\x1b[K${label} [${bar}] ${amount(progress)}${isEnd ? "\n" : ""}`);
  };
}

function linePrinter(output: ProgressOutput, now: () => number): ProgressListener {
  let label = "";
  let tenth = -1;
  let writtenAt = -Infinity;
  return (progress) => {
    if (progress.label !== label) [label, tenth, writtenAt] = [progress.label, -1, -Infinity];
    const reached = Math.floor(fraction(progress) * 10);
    if (reached <= tenth || (reached < 10 && now() - writtenAt < lineMs)) return;
    tenth = reached;
    writtenAt = now();
    output.write(`${label}: ${amount(progress)}\n`);
  };
}

function fraction({ doneBytes, totalBytes }: Progress): number {
  return totalBytes > 0 ? Math.min(doneBytes / totalBytes, 1) : 1;
}

/** For example "45 % (41.8 of 92.9 MB)". */
function amount(progress: Progress): string {
  const megabytes = (bytes: number) => (bytes / 1e6).toFixed(1);
  const percent = Math.floor(fraction(progress) * 100);
  if (progress.unit !== undefined) {
    return `${percent} % (${progress.doneBytes} of ${progress.totalBytes} ${progress.unit})`;
  }
  return `${percent} % (${megabytes(progress.doneBytes)} of ${megabytes(progress.totalBytes)} MB)`;
}
