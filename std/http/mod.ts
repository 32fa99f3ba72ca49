/**
 * The part of `@std/http` that this project uses, with the same names, signatures and behaviour, so that the project
 * builds where JSR is out of reach. `links` in deno.json puts it in the real package's place.
 *
 * @module
 */

export * from "./etag.ts";
export * from "./negotiation.ts";
export * from "./status.ts";
