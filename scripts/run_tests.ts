/**
 * `deno task test`: builds what the tests need, fetches the demo model, runs every test and closes with one plain line.
 *
 *     deno task test [--sanitize] [deno test's own arguments]
 *
 * `--sanitize` runs the tests that drive the native library on a build with AddressSanitizer and
 * UndefinedBehaviorSanitizer.
 *
 * @module
 */

import { fetchDemoModel } from "../models/demo.ts";
import { progressPrinter } from "../models/progress.ts";
import { build } from "./build.ts";
import { firstLine } from "./_command.ts";

const SUMMARY =
  /(?:ok|FAILED) \| (\d+) passed(?: \(\d+ steps?\))? \| (\d+) failed(?: \(\d+ steps?\))?(?: \| (\d+) ignored)?/g;

/** @returns The exit code of `deno test`. */
async function runTests(args: readonly string[]): Promise<number> {
  const sanitize = args.includes("--sanitize");
  const rest = args.filter((arg) => arg !== "--sanitize");
  await build({ backend: "cpu", sanitize });
  const env: Record<string, string> = { NO_COLOR: "1" };
  if (sanitize) {
    const libraries = ["libasan.so", "libubsan.so"].map((name) => firstLine("g++", [`-print-file-name=${name}`]));
    env["LD_PRELOAD"] = (await Promise.all(libraries)).join(" ");
    // Deno itself holds memory at exit that the leak checker would report.
    env["ASAN_OPTIONS"] = "detect_leaks=0";
    env["OCTAVO_LIB"] = decodeURIComponent(new URL("../build/sanitize/liboctavo-cpu.so", import.meta.url).pathname);
  } else {
    await fetchDemoModel({ onProgress: progressPrinter() });
  }
  const folders = sanitize ? ["tests/native", "tests/ffi"] : [];
  const child = new Deno.Command(Deno.execPath(), {
    args: ["test", "--frozen", "-A", ...rest, ...folders],
    env,
    stdout: "piped",
    stderr: "inherit",
  }).spawn();
  let tail = "";
  const decoder = new TextDecoder();
  for await (const bytes of child.stdout) {
    await Deno.stdout.write(bytes);
    tail = (tail + decoder.decode(bytes, { stream: true })).slice(-4096);
  }
  const { code } = await child.status;
  // A type error prints no summary: then something failed and nothing passed.
  const [passed, failed, ignored = "0"] = [...tail.matchAll(SUMMARY)].at(-1)?.slice(1) ?? ["0", "1"];
  console.log(`${passed} passed, ${failed} failed, ${ignored} skipped`);
  return code === 0 && failed === "0" ? 0 : code || 1;
}

try {
  Deno.exit(await runTests(Deno.args));
} catch (error) {
  console.error((error as Error).message);
  Deno.exit(1);
}
