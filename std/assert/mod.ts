/**
 * The part of `@std/assert` that this project uses, with the same names, signatures and behaviour, so that the
 * project builds where JSR is out of reach. `links` in deno.json puts it in the real package's place.
 *
 * @module
 */

export { AssertionError } from "./assertion_error.ts";
export { equal } from "./equal.ts";
export * from "./compare.ts";
export * from "./throws.ts";
export * from "./values.ts";
