/**
 * The part of `@std/cli` that this project uses, with the same names, signatures and behaviour, so that the project
 * builds where JSR is out of reach. `links` in deno.json puts it in the real package's place.
 *
 * @module
 */

export * from "./parse_args.ts";
