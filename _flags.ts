/**
 * The flags of the commands beside `serve`: text in, checked values out.
 *
 * @module
 */

import { parseArgs } from "@std/cli";
import { OptionError } from "./options.ts";

/** What a command line gives. Every reader takes a flag's name and throws {@linkcode OptionError} naming it. */
export interface Flags {
  readonly model: string | undefined;
  /** Null where the flag was not given. */
  text(flag: string): string | null;
  /** True for `--flag`. */
  isSet(flag: string): boolean;
  integer(flag: string, otherwise: number, low: number): number;
  /** The first choice where the flag was not given. */
  choice<const C extends readonly string[]>(flag: string, choices: C): C[number];
}

/**
 * Reads `[MODEL] --flag VALUE ...`.
 *
 * @param flags Those with a value.
 * @param switches Those without.
 * @throws {OptionError} A flag that is none of them, or more than one MODEL.
 */
export function parseFlags(
  command: string,
  flags: readonly string[],
  args: readonly string[],
  switches: readonly string[] = [],
): Flags {
  const unknown: string[] = [];
  const parsed = parseArgs([...args], {
    string: [...flags, "_"],
    boolean: [...switches],
    unknown: (name) => !name.startsWith("-") || (unknown.push(name), false),
  });
  if (unknown.length > 0) throw new OptionError(`Unknown option ${unknown[0]}; octavo ${command} --help lists all`);
  const [model, ...rest] = parsed._.map(String);
  if (rest.length > 0) throw new OptionError(`Expected one MODEL, received also "${rest[0]}"`);
  const given = parsed as Record<string, unknown>;
  const text = (flag: string) => given[flag] === undefined ? null : String(given[flag]);
  return {
    model,
    text,
    isSet: (flag) => given[flag] === true,
    integer(flag, otherwise, low) {
      const value = text(flag);
      if (value === null) return otherwise;
      if (/^\d{1,9}$/.test(value) && Number(value) >= low) return Number(value);
      throw new OptionError(`Cannot read --${flag}: expected an integer of ${low} or more, received "${value}"`);
    },
    choice(flag, choices) {
      const value = text(flag) ?? choices[0]!;
      if (choices.includes(value)) return value;
      throw new OptionError(`Cannot read --${flag}: expected one of ${choices.join(", ")}, received "${value}"`);
    },
  };
}
