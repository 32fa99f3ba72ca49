/**
 * Writes `docs/api.md` from the request schemas.
 *
 * @module
 */

import { apiMarkdown } from "../routes/_api_markdown.ts";

await Deno.writeTextFile(new URL("../docs/api.md", import.meta.url), apiMarkdown());
