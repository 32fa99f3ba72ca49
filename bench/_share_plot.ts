/**
 * A plot of the share of read bandwidth against the bytes read, as SVG: Octavo's cells and, for each cell, the best peer.
 *
 * @module
 */

/** One measured cell. */
export interface AttentionRow {
  readonly kernel: string;
  readonly batch: number;
  readonly context: number;
  readonly qHeads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly pageSize: number;
  readonly kvDtype: "fp8" | "bf16";
  readonly us: number;
  /** Bytes of K and V read. */
  readonly megabytes: number;
  /** Relative error against f32 on the same contents, where the peer's script measured it. */
  readonly relError: number | null;
}

const WIDTH = 720;
const HEIGHT = 420;
const MARGIN = { left: 56, right: 28, top: 36, bottom: 44 };
const COLORS = { octavo: { fp8: "#c2410c", bf16: "#1d4ed8" }, peer: { fp8: "#fdba74", bf16: "#93c5fd" } } as const;

/** @param readTbPerSecond The measured ceiling, 100 % of the axis. */
export function plotShares(rows: readonly AttentionRow[], readTbPerSecond: number): string {
  const points = bestPerCell(rows);
  const sizes = points.map((row) => Math.log10(row.megabytes));
  const [low, high] = [Math.floor(Math.min(...sizes)), Math.ceil(Math.max(...sizes))];
  const x = (row: { megabytes: number }) =>
    MARGIN.left + (Math.log10(row.megabytes) - low) / (high - low) * (WIDTH - MARGIN.left - MARGIN.right);
  const y = (share: number) => MARGIN.top + (1 - share) * (HEIGHT - MARGIN.top - MARGIN.bottom);
  const parts = points.map((row) => {
    const who = row.kernel === "octavo" ? "octavo" : "peer";
    const share = row.megabytes / row.us / readTbPerSecond;
    return `<circle cx="${x(row).toFixed(1)}" cy="${y(share).toFixed(1)}" r="4" fill="${COLORS[who][row.kvDtype]}"/>`;
  });
  const grid = [0, 0.25, 0.5, 0.75, 1].map((share) =>
    `<line x1="${MARGIN.left}" x2="${WIDTH - MARGIN.right}" y1="${y(share)}" y2="${y(share)}" stroke="#e5e7eb"/>` +
    `<text x="${MARGIN.left - 8}" y="${y(share) + 4}" text-anchor="end">${share * 100} %</text>`
  );
  const ticks = Array.from({ length: high - low + 1 }, (_, i) => 10 ** (low + i)).map((megabytes) =>
    `<text x="${x({ megabytes })}" y="${HEIGHT - MARGIN.bottom + 18}" text-anchor="middle">${label(megabytes)}</text>`
  );
  const legend = [
    ["Octavo FP8", COLORS.octavo.fp8],
    ["best peer FP8", COLORS.peer.fp8],
    ["Octavo BF16", COLORS.octavo.bf16],
    ["best peer BF16", COLORS.peer.bf16],
  ].map(([text, color], i) =>
    `<circle cx="${MARGIN.left + 8 + i * 150}" cy="18" r="4" fill="${color}"/>` +
    `<text x="${MARGIN.left + 18 + i * 150}" y="22">${text}</text>`
  );
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" font-family="sans-serif" font-size="12">
<rect width="100%" height="100%" fill="#fff"/>
${[...grid, ...ticks, ...legend, ...parts].join("\n")}
<text x="${WIDTH / 2}" y="${
    HEIGHT - 8
  }" text-anchor="middle">KV bytes read by one call; share of the measured read bandwidth</text>
</svg>
`;
}

/** Octavo's rows, and of each cell the fastest other one. */
function bestPerCell(rows: readonly AttentionRow[]): AttentionRow[] {
  const best = new Map<string, AttentionRow>();
  for (const row of rows) {
    const who = row.kernel === "octavo" ? `octavo ${row.pageSize}` : "peer";
    const key = `${who} ${row.batch} ${row.context} ${row.qHeads} ${row.kvHeads} ${row.headDim} ${row.kvDtype}`;
    const known = best.get(key);
    if (known === undefined || row.us < known.us) best.set(key, row);
  }
  return [...best.values()];
}

function label(megabytes: number): string {
  return megabytes >= 1000 ? `${megabytes / 1000} GB` : `${megabytes} MB`;
}
