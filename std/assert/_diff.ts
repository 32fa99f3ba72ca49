/**
 * Texts for failed assertions: values written out with sorted keys, and the lines in which two of them differ.
 *
 * @module
 */

/** Longest text, in lines, that is compared line by line; longer ones are cut (the comparison is quadratic). */
const MAX_DIFF_LINES = 1000;

/** Writes a value on several lines, whole, with sorted keys. */
export function format(value: unknown): string {
  return Deno.inspect(value, {
    depth: Infinity,
    sorted: true,
    trailingComma: true,
    compact: false,
    iterableLimit: Infinity,
    strAbbreviateSize: Infinity,
  });
}

/** A diff of two values: `-` lines are only in `actual`, `+` lines only in `expected`. */
export function diff(actual: unknown, expected: unknown): string {
  const bothTexts = typeof actual === "string" && typeof expected === "string" &&
    (actual.includes("\n") || expected.includes("\n"));
  const a = lines(bothTexts ? actual : format(actual));
  const b = lines(bothTexts ? expected : format(expected));
  return ["    [Diff] Actual (-) / Expected (+)", "", ...diffLines(a, b)].join("\n");
}

function lines(text: string): string[] {
  const all = text.split("\n");
  if (all.length <= MAX_DIFF_LINES) return all;
  return [...all.slice(0, MAX_DIFF_LINES), `... ${all.length - MAX_DIFF_LINES} more lines`];
}

function diffLines(a: string[], b: string[]): string[] {
  const lengths = commonLengths(a, b);
  const out: string[] = [];
  let i = 0;
  let j = 0;
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) {
      out.push(`    ${a[i++]}`);
      j++;
    } else if (i < a.length && (j === b.length || lengths[i + 1]![j]! >= lengths[i]![j + 1]!)) {
      out.push(`-   ${a[i++]}`);
    } else {
      out.push(`+   ${b[j++]}`);
    }
  }
  return out;
}

/** `lengths[i][j]`: most lines that `a[i..]` and `b[j..]` have in common, in order. */
function commonLengths(a: string[], b: string[]): Uint16Array[] {
  const lengths = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      lengths[i]![j] = a[i] === b[j] ? lengths[i + 1]![j + 1]! + 1 : Math.max(lengths[i + 1]![j]!, lengths[i]![j + 1]!);
    }
  }
  return lengths;
}
