/**
 * Command-line arguments to an object: `["--port", "9000", "-v", "model"]` to `{ port: 9000, v: true, _: ["model"] }`.
 *
 * @module
 */

/** How {@linkcode parseArgs} reads its arguments. */
export interface ParseOptions<
  B extends string = string,
  S extends string = string,
  C extends string = string,
  D extends Record<string, unknown> = Record<string, unknown>,
> {
  /** Put what follows `--` into `result["--"]` instead of `result._`. */
  "--"?: boolean | undefined;
  /** Other names of a flag; each name gets the value. */
  alias?: Readonly<Record<string, string | readonly string[]>> | undefined;
  /** Flags that take no value; false when absent. True: every `--flag` without `=`. */
  boolean?: boolean | B | readonly B[] | undefined;
  /** Values of flags that are absent. */
  default?: D & Record<string, unknown> | undefined;
  /** Stop at the first argument that is no flag; it and all that follow go to `result._`. */
  stopEarly?: boolean | undefined;
  /** Flags whose value stays a string; `_` for the arguments that are no flags. */
  string?: S | readonly S[] | undefined;
  /** Flags that may be given several times; their values come as an array, `[]` when absent. */
  collect?: C | readonly C[] | undefined;
  /** Flags that `--no-flag` sets to false. */
  negatable?: string | readonly string[] | undefined;
  /** Called for each argument not named in `alias`, `boolean` or `string`; `false` leaves it out. */
  unknown?: ((arg: string, key?: string, value?: unknown) => unknown) | undefined;
}

type FlagValue<K extends string, V, C extends string> = string extends C ? V
  : K extends C ? Exclude<V, undefined>[]
  : V;

type Flags<B extends string, S extends string, C extends string, D> =
  & { [K in B as K extends keyof D ? never : K]: FlagValue<K, boolean, C> }
  & { [K in Exclude<S, "_"> as K extends keyof D ? never : K extends C ? K : never]: string[] }
  & { [K in Exclude<S, "_"> as K extends keyof D ? never : K extends C ? never : K]?: string | undefined }
  & { [K in C as K extends B | S ? never : K extends keyof D ? never : K]: unknown[] }
  & {
    [K in keyof D & string]: K extends B ? FlagValue<K, boolean, C> | D[K]
      : K extends S ? FlagValue<K, string, C> | D[K]
      : unknown;
  };

/** What {@linkcode parseArgs} returns: the flags and, in `_`, everything else. */
export type Args<
  B extends string = string,
  S extends string = string,
  C extends string = string,
  D = unknown,
> =
  & { _: (string | number)[]; "--"?: string[] }
  // deno-lint-ignore no-explicit-any
  & (string extends B & S & C ? { [name: string]: any } : { [name: string]: unknown } & Flags<B, S, C, D>);

/**
 * Parses command-line arguments. `--name value`, `--name=value`, `--name`, `-n value`, `-n5`, `-abc` (three flags) are
 * flags; `-` is not. What looks like a number becomes one unless `string` or `boolean` names the flag. A dot in a
 * name makes a nested object. The last value of a repeated flag counts.
 *
 * @example
 * ```ts
 * import { parseArgs } from "@std/cli/parse-args";
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals(parseArgs(["--port", "9000", "-v", "--", "model"], { boolean: ["v"] }), {
 *   port: 9000,
 *   v: true,
 *   _: ["model"],
 * });
 * ```
 */
export function parseArgs<
  const B extends string = never,
  const S extends string = never,
  const C extends string = never,
  const D extends Record<string, unknown> = Record<never, never>,
>(args: string[], options: ParseOptions<B, S, C, D> = {}): Args<
  [B | S | C] extends [never] ? string : B,
  [B | S | C] extends [never] ? string : S,
  [B | S | C] extends [never] ? string : C,
  D
> {
  return new Parser(options as ParseOptions).parse(args) as never;
}

const NUMBER = /^(?:0x[0-9a-f]+|[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:e[-+]?\d+)?)$/i;
/** What cannot be the value of the flag before it. */
const FLAG = /^--?[^-]/;

class Parser {
  readonly #options: ParseOptions;
  readonly #allBooleans: boolean;
  readonly #booleans: Set<string>;
  readonly #strings: Set<string>;
  readonly #collected: Set<string>;
  readonly #negatable: Set<string>;
  /** Each name to the other names of the same flag. */
  readonly #aliases = new Map<string, string[]>();
  readonly #result: Record<string, unknown> & { _: (string | number)[] } = { _: [] };
  readonly #given = new Set<string>();

  constructor(options: ParseOptions) {
    this.#options = options;
    for (const [name, others] of Object.entries(options.alias ?? {})) {
      const names = [name, ...list(others)];
      for (const one of names) this.#aliases.set(one, names.filter((other) => other !== one));
    }
    this.#allBooleans = options.boolean === true;
    this.#booleans = this.#withAliases(typeof options.boolean === "boolean" ? [] : list(options.boolean));
    this.#strings = this.#withAliases(list(options.string));
    this.#collected = this.#withAliases(list(options.collect));
    this.#negatable = this.#withAliases(list(options.negatable));
  }

  parse(args: readonly string[]): Record<string, unknown> {
    const end = args.indexOf("--");
    const flags = end < 0 ? args : args.slice(0, end);
    const rest = end < 0 ? [] : args.slice(end + 1);
    for (let i = 0; i < flags.length; i++) {
      const arg = flags[i]!;
      if (arg.startsWith("--")) {
        i += this.#long(arg, flags[i + 1]);
      } else if (arg.startsWith("-") && arg !== "-") {
        i += this.#short(arg, flags[i + 1]);
      } else {
        if (this.#options.unknown?.(arg) !== false) this.#result._.push(this.#value("_", arg) as string | number);
        if (this.#options.stopEarly) {
          this.#result._.push(...flags.slice(i + 1));
          break;
        }
      }
    }
    this.#fillIn();
    if (this.#options["--"]) this.#result["--"] = [...rest];
    else this.#result._.push(...rest);
    return this.#result;
  }

  /** `--name`, `--no-name`, `--name=value`, `--name value`; returns how many following arguments it took. */
  #long(arg: string, next: string | undefined): 0 | 1 {
    const equals = arg.indexOf("=");
    if (equals > 2) {
      const name = arg.slice(2, equals);
      const text = arg.slice(equals + 1);
      this.#set(name, this.#booleans.has(name) ? text !== "false" : text, arg);
      return 0;
    }
    const name = arg.slice(2);
    if (name.startsWith("no-") && this.#negatable.has(name.slice(3))) {
      this.#set(name.slice(3), false, arg, false);
      return 0;
    }
    return this.#valueFromNext(name, next, arg, this.#allBooleans);
  }

  /** `-abc`, `-n5`, `-n=5`, `-n 5`; returns how many following arguments it took. */
  #short(arg: string, next: string | undefined): 0 | 1 {
    const letters = arg.slice(1);
    for (let i = 0; i < letters.length - 1; i++) {
      const rest = letters.slice(i + 1);
      if (/^\W/.test(rest) || (/[A-Za-z]/.test(letters[i]!) && NUMBER.test(rest))) {
        this.#set(letters[i]!, rest.startsWith("=") ? rest.slice(1) : rest, arg);
        return 0;
      }
      this.#set(letters[i]!, this.#strings.has(letters[i]!) ? "" : true, arg);
    }
    const last = letters.at(-1)!;
    return this.#valueFromNext(last, next, `-${last}`, false);
  }

  #valueFromNext(name: string, next: string | undefined, arg: string, noValue: boolean): 0 | 1 {
    const isBoolean = this.#booleans.has(name);
    if (next !== undefined && !FLAG.test(next) && !isBoolean && !noValue) {
      this.#set(name, next, arg);
      return 1;
    }
    if ((next === "true" || next === "false") && isBoolean) {
      this.#set(name, next === "true", arg);
      return 1;
    }
    this.#set(name, this.#strings.has(name) ? "" : true, arg);
    return 0;
  }

  #set(name: string, raw: string | boolean, arg: string, collect = true): void {
    const known = this.#booleans.has(name) || this.#strings.has(name) || this.#aliases.has(name) ||
      (this.#allBooleans && /^--[^=]+$/.test(arg));
    if (!known && this.#options.unknown?.(arg, name, raw) === false) return;
    const value = this.#value(name, raw);
    for (const one of [name, ...this.#aliases.get(name) ?? []]) {
      this.#given.add(one);
      const before = collect && this.#collected.has(one) ? getNested(this.#result, one) : undefined;
      const stored = !collect || !this.#collected.has(one) ? value : [...Array.isArray(before) ? before : [], value];
      setNested(this.#result, one, stored);
    }
  }

  #value(name: string, raw: string | boolean): string | number | boolean {
    return typeof raw === "string" && !this.#strings.has(name) && NUMBER.test(raw) ? Number(raw) : raw;
  }

  /** Gives absent flags their defaults. */
  #fillIn(): void {
    const defaults = new Map<string, unknown>();
    for (const name of this.#booleans) defaults.set(name, this.#collected.has(name) ? [] : false);
    for (const name of this.#strings) if (this.#collected.has(name)) defaults.set(name, []);
    for (const [name, value] of Object.entries(this.#options.default ?? {})) {
      for (const one of [name, ...this.#aliases.get(name) ?? []]) defaults.set(one, value);
    }
    for (const [name, value] of defaults) {
      if (!this.#given.has(name)) setNested(this.#result, name, value);
    }
  }

  #withAliases(names: readonly string[]): Set<string> {
    return new Set(names.flatMap((name) => [name, ...this.#aliases.get(name) ?? []]));
  }
}

function list(value: string | readonly string[] | undefined): readonly string[] {
  return value === undefined ? [] : typeof value === "string" ? [value] : value;
}

function getNested(target: Record<string, unknown>, name: string): unknown {
  let value: unknown = target;
  for (const part of name.split(".")) {
    if (typeof value !== "object" || value === null || !Object.hasOwn(value, part)) return undefined;
    value = Reflect.get(value, part);
  }
  return value;
}

/** Own data properties only: `--__proto__.x` must not reach a prototype. */
function setNested(target: object, name: string, value: unknown): void {
  const parts = name.split(".");
  let holder = target;
  for (const part of parts.slice(0, -1)) {
    const inner: unknown = Object.hasOwn(holder, part) ? Reflect.get(holder, part) : undefined;
    const next = typeof inner === "object" && inner !== null ? inner : {};
    define(holder, part, next);
    holder = next;
  }
  define(holder, parts.at(-1)!, value);
}

function define(holder: object, name: string, value: unknown): void {
  Object.defineProperty(holder, name, { value, writable: true, enumerable: true, configurable: true });
}
