/**
 * Puts Octavo's GPU attention figures beside those of other engines' kernels from the same run: a Markdown table, a fit
 * of time = t_fixed + bytes / (f x read bandwidth), and a plot of the share of bandwidth against bytes.
 *
 *     deno run --allow-read --allow-write=bench,docs bench/compare_attention.ts OCTAVO.jsonl [PEERS.json ...]
 *         [--json OUT.json] [--svg OUT.svg]
 *
 * OCTAVO.jsonl is what `bench/gpu_attention.cu` prints; PEERS.json holds
 * `{"rows": [{kernel, batch, ctx, hq, hkv, page, kv, us, rel_err}]}`.
 *
 * @module
 */

import { parseArgs } from "@std/cli";
import { type AttentionRow, plotShares } from "./_share_plot.ts";

interface OctavoRun {
  readonly card: string;
  readonly readTbPerSecond: number;
  readonly rows: AttentionRow[];
}

function readOctavo(text: string): OctavoRun {
  const lines = text.trim().split("\n").map((line) => JSON.parse(line));
  const head = lines.find((line) => "card" in line);
  // Formats that no peer has are left out.
  const compared = lines.filter((line) => "us" in line && ["fp8_e4m3", "bfloat16"].includes(line.kv));
  const rows = compared.flatMap((line): AttentionRow[] => {
    const match = /^(\d+)x(\d+) (\d+)\/(\d+) d(\d+) p(\d+)$/.exec(line.cell);
    if (match === null) return [];
    const [batch, context, qHeads, kvHeads, headDim, pageSize] = match.slice(1).map(Number) as number[];
    const kvDtype = line.kv.startsWith("fp8") ? "fp8" : "bf16";
    return [{
      kernel: "octavo",
      batch: batch!,
      context: context!,
      qHeads: qHeads!,
      kvHeads: kvHeads!,
      headDim: headDim!,
      pageSize: pageSize!,
      kvDtype,
      us: line.us,
      megabytes: line.mb,
      relError: null,
    }];
  });
  return { card: head.card, readTbPerSecond: head.read_tb_s, rows };
}

function readPeers(text: string): AttentionRow[] {
  const { rows } = JSON.parse(text) as { rows: Record<string, string | number>[] };
  return rows.filter((row) => "us" in row).map((row) => ({
    kernel: String(row["kernel"]),
    batch: Number(row["batch"]),
    context: Number(row["ctx"]),
    qHeads: Number(row["hq"]),
    kvHeads: Number(row["hkv"]),
    headDim: 128,
    pageSize: Number(row["page"]),
    kvDtype: row["kv"] === "bf16" ? "bf16" : "fp8",
    us: Number(row["us"]),
    megabytes: Number(row["kv_bytes"]) / 1e6,
    relError: row["rel_err"] === undefined ? null : Number(row["rel_err"]),
  }));
}

const cellOf = (row: AttentionRow) =>
  `${row.batch}x${row.context} ${row.qHeads}/${row.kvHeads} x ${row.headDim} ${row.kvDtype}`;

function fastest(rows: readonly AttentionRow[]): AttentionRow | undefined {
  return rows.toSorted((a, b) => a.us - b.us)[0];
}

/** Least squares of the relative error: t_fixed in microseconds, f as a share of the read bandwidth. */
export function fitTime(rows: readonly AttentionRow[], readTbPerSecond: number): { tFixedUs: number; f: number } {
  let [w, x, y, xx, xy] = [0, 0, 0, 0, 0];
  for (const row of rows) {
    const weight = 1 / row.us ** 2;
    const ideal = row.megabytes / readTbPerSecond;
    w += weight;
    x += weight * ideal;
    y += weight * row.us;
    xx += weight * ideal ** 2;
    xy += weight * ideal * row.us;
  }
  const slope = (w * xy - x * y) / (w * xx - x * x);
  return { tFixedUs: (y - slope * x) / w, f: 1 / slope };
}

function compare(run: OctavoRun, peers: readonly AttentionRow[]) {
  return [...new Set(run.rows.map(cellOf))].map((cell) => {
    const ours = fastest(run.rows.filter((row) => cellOf(row) === cell && row.pageSize === 16))!;
    const best = fastest(peers.filter((row) => cellOf(row) === cell));
    return {
      cell,
      octavoUs: ours?.us,
      share: ours && Math.round(ours.megabytes / ours.us / run.readTbPerSecond * 1000) / 1000,
      ...(best && {
        bestPeer: `${best.kernel}, page ${best.pageSize}`,
        bestPeerUs: best.us,
        times: Math.round(best.us / ours.us * 100) / 100,
      }),
    };
  }).filter((row) => row.octavoUs !== undefined);
}

if (import.meta.main) {
  const flags = parseArgs(Deno.args, { string: ["json", "svg", "_"] });
  const [octavoFile, ...peerFiles] = flags._.map(String);
  if (octavoFile === undefined) throw new Error("Expected the file with Octavo's figures");
  const run = readOctavo(await Deno.readTextFile(octavoFile));
  const peers = (await Promise.all(peerFiles.map((file) => Deno.readTextFile(file)))).flatMap(readPeers);
  const cells = compare(run, peers);
  console.log(
    "| cell | Octavo us | share of read bandwidth | best peer | us | times faster |\n|---|---|---|---|---|---|",
  );
  for (const row of cells) {
    console.log(
      `| ${row.cell} | ${row.octavoUs} | ${(row.share * 100).toFixed(0)} % | ${row.bestPeer ?? "-"} | ` +
        `${row.bestPeerUs ?? "-"} | ${row.times ?? "-"} |`,
    );
  }
  const { tFixedUs, f } = fitTime(run.rows, run.readTbPerSecond);
  console.log(`\nFit: ${tFixedUs.toFixed(2)} us + bytes / (${f.toFixed(3)} x ${run.readTbPerSecond} TB/s)`);
  const { card, readTbPerSecond } = run;
  if (flags.json !== undefined) {
    const report = {
      bench: "attention",
      card,
      readTbPerSecond,
      fit: { tFixedUs, f },
      cells,
      rows: [...run.rows, ...peers],
    };
    await Deno.writeTextFile(flags.json, JSON.stringify(report, null, 1) + "\n");
  }
  if (flags.svg !== undefined) {
    await Deno.writeTextFile(flags.svg, plotShares([...run.rows, ...peers], readTbPerSecond));
  }
}
