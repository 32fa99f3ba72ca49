/**
 * `deno task docs`: writes what the documentation takes from the code: `docs/api.md` from the request schemas, the list in
 * `docs/options.md` from the options.
 *
 * @module
 */

import { describeOptions } from "../options.ts";
import { apiMarkdown } from "../routes/_api_markdown.ts";

const DOCS = new URL("../docs/", import.meta.url);
const optionsPage = new URL("options.md", DOCS);

await Deno.writeTextFile(new URL("api.md", DOCS), apiMarkdown());
const page = await Deno.readTextFile(optionsPage);
// Without the indentation of --help, which the formatter would take away.
const list = `\`\`\`text\n${describeOptions().replaceAll(/^ {2}/gm, "")}\n\`\`\``;
await Deno.writeTextFile(optionsPage, page.replace(/```text\n[\s\S]*?\n```/, () => list));
