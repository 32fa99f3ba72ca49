/**
 * Fetches the test model Gemma-3-270m (253 MB, Gemma terms of use) into Octavo's cache and prints its path; tests that need
 * it run once it is there.
 *
 * Usage: deno run --allow-env=OCTAVO_CACHE,XDG_CACHE_HOME,HOME --allow-read --allow-write --allow-run=python3
 *        scripts/fetch_gemma.ts
 *
 * @module
 */

import { fetchGemma } from "../models/demo.ts";
import { progressPrinter } from "../models/progress.ts";

console.log(await fetchGemma({ onProgress: progressPrinter() }));
