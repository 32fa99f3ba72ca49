/**
 * The chart of `octavo eval-kv`: one line a cache, from its mean KL divergence to its 99th percentile, on a logarithmic
 * axis, as SVG.
 *
 * @module
 */

/** One cache. */
export interface ChartRow {
  readonly name: string;
  readonly bitsPerValue: number;
  /** In nats a token. */
  readonly klMean: number;
  readonly klP99: number;
}

const WIDTH = 760;
const ROW_HEIGHT = 26;
const MARGIN = { left: 270, right: 36, top: 44, bottom: 52 };
const COLORS = { mean: "#1d4ed8", p99: "#93c5fd", line: "#cbd5e1", grid: "#e5e7eb" } as const;

/** @param title Names the model and the text. Rows stand from the least mean KL to the largest. */
export function accuracyChart(title: string, rows: readonly ChartRow[]): string {
  const sorted = rows.toSorted((a, b) => a.klMean - b.klMean);
  const values = sorted.flatMap(({ klMean, klP99 }) => [klMean, klP99]).filter((value) => value > 0);
  const [first, last] = decades(values);
  const bottom = MARGIN.top + sorted.length * ROW_HEIGHT;
  const height = bottom + MARGIN.bottom;
  const x = (value: number) => {
    const power = Math.min(last, Math.max(first, Math.log10(value)));
    return MARGIN.left + (power - first) / (last - first) * (WIDTH - MARGIN.left - MARGIN.right);
  };
  const grid = Array.from({ length: last - first + 1 }, (_, i) => 10 ** (first + i)).map((value) => {
    const at = x(value).toFixed(1);
    return `<line x1="${at}" x2="${at}" y1="${MARGIN.top}" y2="${bottom}" stroke="${COLORS.grid}"/>` +
      `<text x="${at}" y="${bottom + 18}" text-anchor="middle">${label(value)}</text>`;
  });
  const lines = sorted.map(({ name, bitsPerValue, klMean, klP99 }, i) => {
    const y = MARGIN.top + (i + 0.5) * ROW_HEIGHT;
    const [mean, p99] = [x(klMean).toFixed(1), x(klP99).toFixed(1)];
    return `<text x="${MARGIN.left - 66}" y="${y + 4}" text-anchor="end">${escape(name)}</text>` +
      `<text x="${MARGIN.left - 12}" y="${y + 4}" text-anchor="end" fill="#64748b">${bits(bitsPerValue)}</text>` +
      `<line x1="${mean}" x2="${p99}" y1="${y}" y2="${y}" stroke="${COLORS.line}" stroke-width="2"/>` +
      `<circle cx="${p99}" cy="${y}" r="4" fill="${COLORS.p99}"/><circle cx="${mean}" cy="${y}" r="5" fill="${COLORS.mean}"/>`;
  });
  const legend = [["mean", COLORS.mean], ["99th percentile", COLORS.p99]].map(([text, color], i) =>
    `<circle cx="${MARGIN.left + 8 + i * 80}" cy="${MARGIN.top - 14}" r="4" fill="${color}"/>` +
    `<text x="${MARGIN.left + 18 + i * 80}" y="${MARGIN.top - 10}">${text}</text>`
  );
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" font-family="sans-serif" font-size="12">
<rect width="100%" height="100%" fill="#fff"/>
<text x="12" y="18" font-weight="bold">${escape(title)}</text>
${[...grid, ...lines, ...legend].join("\n")}
<text x="${(MARGIN.left + WIDTH - MARGIN.right) / 2}" y="${
    height - 12
  }" text-anchor="middle">KL divergence of the next token, nats (less is better)</text>
</svg>
`;
}

/** Powers of ten below and above all values, a decade apart at least. */
function decades(values: readonly number[]): [first: number, last: number] {
  if (values.length === 0) return [-1, 0];
  const first = Math.floor(Math.log10(Math.min(...values)));
  return [first, Math.max(first + 1, Math.ceil(Math.log10(Math.max(...values))))];
}

function label(value: number): string {
  return value >= 1e-4 ? `${Number(value.toPrecision(1))}` : value.toExponential(0);
}

function bits(value: number): string {
  return `${Number(value.toFixed(2))} bit`;
}

function escape(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}
