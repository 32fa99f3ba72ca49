import { assert, assertEquals, assertMatch, assertRejects, assertStringIncludes, assertThrows } from "@std/assert";
import { accuracyChart } from "../_accuracy_chart.ts";
import { calibrate, parseCalibrate } from "../calibrate.ts";
import type { ReportJson } from "../_accuracy_report.ts";
import { evalKv, parseEvalKv } from "../eval_kv.ts";
import { OptionError } from "../options.ts";
import { dataPath, withTempFolder } from "./models/_fixtures.ts";

const TINY = dataPath("tiny/base");
const TEXT = "The cache keeps a key and a value of every token. ".repeat(60);

async function run(folder: string, ...args: string[]) {
  const data = `${folder}/data.txt`;
  Deno.writeTextFileSync(data, TEXT);
  const output = `${folder}/accuracy.json`;
  const common = ["--data", data, "--output", output, "--device", "cpu", "--max-seq-len", "64", "--samples", "3"];
  let table = "";
  const labels = new Set<string>();
  await evalKv(parseEvalKv([TINY, ...common, ...args]), {
    log: (text) => table += `${text}\n`,
    onProgress: ({ label }) => labels.add(label),
  });
  const json = Deno.readTextFileSync(output);
  const svg = Deno.readTextFileSync(`${folder}/accuracy.svg`);
  return { table, json, svg, labels, report: JSON.parse(json) as ReportJson };
}

Deno.test("evalKv() compares every cache the model can have, the same in every run", () =>
  withTempFolder(async (folder) => {
    const first = await run(folder, "--greedy-tokens", "8", "--retrieval", "256");
    const { report, table, svg } = first;
    assert(first.labels.has("Comparing 9 KV caches"));
    const names = report.caches.map(({ name }) => name);
    assertEquals(names, [
      "float32",
      "bfloat16",
      "float16",
      "fp8_e4m3",
      "fp8_e5m2",
      "fp8_per_token_head",
      "int8",
      "int8_per_token_head",
      "k8v4",
      "int4",
    ]);
    assertEquals(report.data, { samples: 3, tokens: 192, max_seq_len: 64 });
    assertEquals(report.reference, "float32");
    const kl = Object.fromEntries(report.caches.map(({ name, kl_mean }) => [name, kl_mean as number]));
    assertEquals(kl["float32"], 0);
    // Each step down in precision costs something: an order that no mix-up of caches would keep.
    const order = ["float16", "bfloat16", "fp8_e4m3", "fp8_e5m2"].map((name) => kl[name]!);
    assertEquals(order.toSorted((a, b) => a - b), order);
    assert(kl["int8"]! < kl["k8v4"]! && kl["k8v4"]! < kl["int4"]!);
    assertEquals(report.caches[6]!["bits_per_value"], 9); // head_dim 32: 4 bytes of scale
    assertEquals(report.retrieval.map(({ context_length }) => context_length), [256]);
    const lines = table.split("\n");
    assertEquals(lines.length, 11 + 1 + 11 + 1);
    assertMatch(lines[0]!, /^cache +bits +perplexity +mean KL +p99 KL +same top-1 +greedy the same$/);
    for (const name of names) {
      assertStringIncludes(table, `\n${name} `);
      if (name !== "float32") assertStringIncludes(svg, `>${name}<`);
    }
    const again = await run(folder, "--greedy-tokens", "8", "--retrieval", "256");
    assertEquals([again.json, again.svg, again.table], [first.json, first.svg, first.table]);
  }));

Deno.test("evalKv() compares calibrated scales of files beside the scale 1", () =>
  withTempFolder(async (folder) => {
    Deno.writeTextFileSync(`${folder}/calibration.txt`, TEXT);
    const scales = `${folder}/heads.safetensors`;
    const args = ["--data", `${folder}/calibration.txt`, "--output", scales, "--max-seq-len", "64"];
    await calibrate(parseCalibrate([TINY, ...args, "--granularity", "head"]), { log: () => {}, onProgress: () => {} });
    const { report } = await run(
      folder,
      "--kv-cache-dtypes",
      "fp8,int4",
      "--kv-scales",
      scales,
      "--greedy-tokens",
      "0",
    );
    const calibrated = ["fp8_e4m3", "int8", "k8v4", "int4"].map((name) => `${name} (heads.safetensors)`);
    assertEquals(report.caches.map(({ name }) => name), ["float32", "fp8_e4m3", "int4", ...calibrated]);
    const kl = new Map(report.caches.map(({ name, kl_mean }) => [name, kl_mean]));
    for (const name of ["fp8_e4m3", "int4"]) assert(kl.get(name) !== kl.get(`${name} (heads.safetensors)`), name);
    assertEquals(report.caches[1]!["greedy"], null);
  }));

Deno.test("evalKv() takes .jsonl samples as text and as token ids, and the reference that is named", () =>
  withTempFolder(async (folder) => {
    const data = `${folder}/data.jsonl`;
    Deno.writeTextFileSync(data, `{"text": "one and two"}\n\n{"token_ids": [5, 6, 7, 8]}\n{"token_ids": [9]}\n`);
    const command = (...args: string[]) =>
      parseEvalKv([TINY, "--data", data, "--output", `${folder}/a.json`, "--device", "cpu", ...args]);
    const silent = { log: () => {}, onProgress: () => {} };
    await evalKv(command("--reference", "bfloat16", "--kv-cache-dtypes", "int8,auto,fp8"), silent);
    const report: ReportJson = JSON.parse(Deno.readTextFileSync(`${folder}/a.json`));
    assertEquals(report.data.samples, 2); // one token alone predicts nothing
    assertEquals(report.caches.map(({ name }) => name), ["bfloat16", "int8", "fp8_e4m3"]);
    Deno.writeTextFileSync(data, `{"token_ids": [5, 320]}`);
    await assertRejects(() => evalKv(command(), silent), OptionError, "integers 0 to 319, found 320");
    Deno.writeTextFileSync(data, `{"text": "short"}`);
    await assertRejects(() => evalKv(command("--retrieval", "all"), silent), OptionError, "expected 128 or more");
    Deno.writeTextFileSync(data, `{"text": ${JSON.stringify(TEXT.slice(0, 400))}}`);
    await evalKv(command("--retrieval", "all", "--kv-cache-dtypes", "int8"), silent);
    const { retrieval }: ReportJson = JSON.parse(Deno.readTextFileSync(`${folder}/a.json`));
    assertEquals(retrieval.map(({ context_length }) => context_length), [128, 256]);
    Deno.writeTextFileSync(data, `{"text": "short"}`);
    await assertRejects(() => evalKv(command("--retrieval", "256"), silent), OptionError, "256 tokens: the data has");
    await assertRejects(
      () => evalKv(command("--retrieval", "1024"), silent),
      OptionError,
      "1024 tokens: the model's context is 512",
    );
    await assertRejects(
      () => evalKv(command("--kv-cache-dtypes", "float32"), silent),
      OptionError,
      "no cache to compare with float32",
    );
  }));

Deno.test("parseEvalKv() names what it cannot read", () => {
  assertThrows(() => parseEvalKv(["m"]), OptionError, "needs --data");
  assertThrows(
    () => parseEvalKv(["m", "--data", "x", "--reference", "fp4"]),
    OptionError,
    "--reference: expected auto",
  );
  assertThrows(() => parseEvalKv(["m", "--data", "x", "--kv-cache-dtypes", "int8,"]), OptionError, 'received ""');
  assertThrows(() => parseEvalKv(["m", "--data", "x", "--retrieval", "64"]), OptionError, 'received "64"');
  assertThrows(() => parseEvalKv(["m", "--data", "x", "--sample", "3"]), OptionError, "Unknown option --sample");
});

Deno.test("accuracyChart() draws a line a cache, sorted, on a logarithmic axis, and escapes names", () => {
  const svg = accuracyChart("a < b", [
    { name: "worse & x", bitsPerValue: 4.5, klMean: 0.01, klP99: 0.1 },
    { name: "better", bitsPerValue: 8.25, klMean: 0.0001, klP99: 0.001 },
    { name: "exact", bitsPerValue: 32, klMean: 0, klP99: 0 },
  ]);
  const names = [...svg.matchAll(/text-anchor="end">([^<]+)</g)].map(([, name]) => name);
  assertEquals(names, ["exact", "better", "worse &amp; x"]);
  assertStringIncludes(svg, "a &lt; b");
  // mean of "better" at the left edge, p99 of "worse" at the right one, a decade a third of the way
  const centers = [...svg.matchAll(/circle cx="([\d.]+)" cy="[\d.]+" r="[45]"/g)].map(([, cx]) => Number(cx));
  assertEquals(centers.slice(0, 6), [270, 270, 421.3, 270, 724, 572.7]);
});
