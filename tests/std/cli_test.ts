import { assertEquals } from "@std/assert";
import { parseArgs } from "@std/cli/parse-args";
import * as cli from "@std/cli";

type Options = Parameters<typeof parseArgs>[1];
const CASES: [string, string[], Record<string, unknown>, Record<string, unknown>][] = [
  ["positional arguments", ["a", "-", "7"], {}, { _: ["a", "-", 7] }],
  ["positional arguments kept as texts", ["007"], { string: ["_"] }, { _: ["007"] }],
  ["--name value", ["--port", "9000", "a"], {}, { port: 9000, _: ["a"] }],
  ["--name=value", ["--f=a=b", "--g="], {}, { f: "a=b", g: "", _: [] }],
  ["numbers", ["--a=-5", "--b=0x1F", "--c=1e3", "--d=.5", "--e=5f"], {}, {
    a: -5,
    b: 31,
    c: 1000,
    d: 0.5,
    e: "5f",
    _: [],
  }],
  ["texts that look like numbers", ["--id", "007"], { string: "id" }, { id: "007", _: [] }],
  ["a text flag without a value", ["--id"], { string: "id" }, { id: "", _: [] }],
  ["a flag followed by a flag", ["--a", "--b", "1"], {}, { a: true, b: 1, _: [] }],
  ["short flags in a group", ["-abc", "x"], {}, { a: true, b: true, c: "x", _: [] }],
  ["a short flag with its number", ["-n5", "-m=x", "-f-"], {}, { n: 5, m: "x", f: "-", _: [] }],
  ["a short flag with a path", ["-xy/tmp"], {}, { x: true, y: "/tmp", _: [] }],
  ["booleans that take no value", ["--v", "x"], { boolean: ["v", "w"] }, { v: true, w: false, _: ["x"] }],
  ["booleans with a written value", ["--v", "false", "--w=false", "--x=yes"], { boolean: ["v", "w", "x"] }, {
    v: false,
    w: false,
    x: true,
    _: [],
  }],
  ["every long flag as boolean", ["--v", "x", "-p", "5", "--t=y"], { boolean: true }, {
    v: true,
    p: 5,
    t: "y",
    _: ["x"],
  }],
  ["negated flags", ["--no-cache"], { boolean: "cache", negatable: "cache", default: { cache: true } }, {
    cache: false,
    _: [],
  }],
  ["a negation that was not allowed", ["--no-cache"], {}, { "no-cache": true, _: [] }],
  ["the last of repeated flags", ["--v", "a", "--v", "b"], {}, { v: "b", _: [] }],
  ["collected flags", ["--v", "1", "--v=b"], { string: "w", collect: ["v", "w", "x"] }, { v: [1, "b"], w: [], _: [] }],
  ["a collected flag negated", ["--v", "1", "--no-v"], { collect: "v", negatable: "v" }, { v: false, _: [] }],
  ["a collected flag's default", ["--w", "x"], { collect: ["v", "w"], default: { v: ["a"], w: ["b"] } }, {
    v: ["a"],
    w: ["x"],
    _: [],
  }],
  ["aliases both ways", ["-p", "1", "--help"], { alias: { port: ["p"], h: "help" }, boolean: ["h"] }, {
    port: 1,
    p: 1,
    h: true,
    help: true,
    _: [],
  }],
  ["aliases' defaults", [], { alias: { port: "p" }, default: { port: 8000 } }, { port: 8000, p: 8000, _: [] }],
  ["nested names", ["--a.b", "1", "--a.c.d"], {}, { a: { b: 1, c: { d: true } }, _: [] }],
  ["what follows --", ["-a", "--", "--b", "5"], {}, { a: true, _: ["--b", "5"] }],
  ["what follows --, apart", ["x", "--", "--b"], { "--": true }, { _: ["x"], "--": ["--b"] }],
  ["stopEarly", ["--a", "serve", "x", "--b"], { boolean: "a", stopEarly: true }, { a: true, _: ["serve", "x", "--b"] }],
];
for (const [name, args, options, expected] of CASES) {
  Deno.test(`parseArgs() reads ${name}`, () => {
    const parsed: Record<string, unknown> = parseArgs(args, options as Options);
    assertEquals({ ...parsed }, expected);
  });
}

Deno.test("parseArgs() reports what no option names and leaves it out when told to", () => {
  const seen: unknown[] = [];
  const parsed = parseArgs(["--port=1", "-x", "5", "file", "--v"], {
    string: ["port"],
    boolean: ["v"],
    unknown: (arg, key, value) => {
      seen.push([arg, key, value]);
      return false;
    },
  });
  assertEquals({ ...parsed }, { port: "1", v: true, _: [] });
  assertEquals(seen, [["-x", "x", "5"], ["file", undefined, undefined]]);
});

Deno.test("parseArgs() never reaches a prototype when a name says so", () => {
  parseArgs(["--__proto__.polluted", "1"]);
  assertEquals(Reflect.get({}, "polluted"), undefined);
});

Deno.test("parseArgs() types flags by their options", () => {
  const args = cli.parseArgs(["--port", "1", "--v"], {
    string: ["port", "stop"],
    boolean: ["v"],
    collect: ["stop"],
    default: { port: "8000" },
  });
  const port: string = args.port;
  const v: boolean = args.v;
  const stop: string[] = args.stop;
  assertEquals([port, v, stop], ["1", true, []]);
});
