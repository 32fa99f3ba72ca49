/**
 * This version of Octavo, from deno.json.
 *
 * @module
 */

import project from "./deno.json" with { type: "json" };

/** For example "0.1.0". */
export const VERSION: string = project.version;
