import { assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { describeOptions, OptionError, OPTIONS, parseCommandLine, parseMemory, variable } from "../options.ts";

const noEnv = () => undefined;

Deno.test("parseCommandLine() gives every default when nothing is given", () => {
  const { options, given, positionals, help } = parseCommandLine([], noEnv);
  for (const [key, option] of Object.entries(OPTIONS)) {
    assertEquals(options[key as keyof typeof options], option.default);
  }
  assertEquals([given.size, positionals.length, help], [0, 0, false]);
});

Deno.test("parseCommandLine() reads each option from its flag and from its variable", () => {
  const samples: Record<keyof typeof OPTIONS, [string, unknown]> = {
    host: ["0.0.0.0", "0.0.0.0"],
    port: ["9000", 9000],
    apiKey: ["secret", "secret"],
    apiKeyFile: ["keys.json", "keys.json"],
    corsOrigins: ["https://a.example,*", ["https://a.example", "*"]],
    separateReasoning: ["false", false],
    chatTemplate: ["chat.jinja", "chat.jinja"],
    servedModelName: ["a, b", ["a", "b"]],
    device: ["cuda", "cuda"],
    loadFormat: ["dummy", "dummy"],
    quantization: ["fp8", "fp8"],
    gpuMemoryUtilization: ["0.85", 0.85],
    kvCacheDtype: ["fp8_e5m2", "fp8_e5m2"],
    kvCacheDtypes: ["bfloat16, fp8", ["bfloat16", "fp8"]],
    kvCacheDtypeSkipLayers: ["0, 7,sliding_window", [0, 7, "sliding_window"]],
    kvScales: ["scales.safetensors", "scales.safetensors"],
    strictKvScales: ["true", true],
    calculateKvScales: ["true", true],
    calculateKvScalesTokens: ["100", 100],
    kvCacheStats: ["true", true],
    checkPages: ["true", true],
    kvCacheMemory: ["2GiB", { bytes: 2 ** 31 }],
    kvOffloadMemory: ["1.5GiB", 1.5 * 2 ** 30],
    maxModelLen: ["4096", 4096],
    maxNumSeqs: ["7", 7],
    maxNumBatchedTokens: ["100", 100],
    maxQueuedRequests: ["5", 5],
    deadlineMs: ["30000", 30000],
    pageSize: ["64", 64],
    enablePrefixCaching: ["false", false],
    numSpeculativeTokens: ["5", 5],
    promptLookupMin: ["2", 2],
    enableKvCompare: ["true", true],
    threads: ["3", 3],
  };
  for (const [key, [text, value]] of Object.entries(samples) as [keyof typeof OPTIONS, [string, unknown]][]) {
    const option = OPTIONS[key];
    assertEquals(parseCommandLine([`--${option.flag}`, text], noEnv).options[key], value);
    assertEquals(parseCommandLine([`--${option.flag}=${text}`], noEnv).options[key], value);
    const fromEnv = parseCommandLine([], (name) => name === variable(option) ? text : undefined);
    assertEquals(fromEnv.options[key], value);
    assertEquals([[...fromEnv.given], fromEnv.flags], [[key], []]);
    const { flags } = parseCommandLine(["model", `--${option.flag}`, text], noEnv);
    assertEquals(parseCommandLine(flags, noEnv).options[key], value);
  }
});

Deno.test("parseCommandLine() tells no guesses from as many as the device gains by", () => {
  assertEquals(parseCommandLine(["--num-speculative-tokens", "0"], noEnv).options.numSpeculativeTokens, 0);
  assertEquals(parseCommandLine([], noEnv).options.numSpeculativeTokens, null);
});

Deno.test("parseCommandLine() prefers a flag over its variable", () => {
  assertEquals(parseCommandLine(["--port", "1"], (name) => name === "OCTAVO_PORT" ? "2" : undefined).options.port, 1);
});

Deno.test("parseCommandLine() names the option and the value it cannot read", () => {
  const bad: [string[], string][] = [
    [["--port", "70000"], 'Cannot read --port: expected an integer 0 to 65535, received "70000"'],
    [["--port=-1"], "--port"],
    [["--page-size", "8"], 'expected 16, 32 or 64, received "8"'],
    [["--kv-cache-dtype", "int3"], "auto, bfloat16, float16, float32, fp8, fp8_e4m3, fp8_e5m2"],
    [["--kv-cache-dtype-skip-layers", "1,last"], "expected an integer 0 to 65535"],
    [["--kv-cache-dtypes", "bfloat16,fp7"], "expected names among auto, bfloat16"],
    [["--kv-offload-memory", "0.5"], "expected bytes such as 8GiB"],
    [["--kv-cache-memory", "1.5"], "fraction above 0 and at most 1"],
    [["--max-num-seqs", "0"], "1 to 4096"],
    [["--gpu-memory-utilization", "0"], "fraction above 0 and at most 1"],
    [["--gpu-memory-utilization", "1.1"], "fraction above 0 and at most 1"],
    [["--gpu-memory-utilization", "most"], "fraction above 0 and at most 1"],
    [["--quantization", "int4"], "none, fp8"],
    [["--device", "tpu"], "auto, cpu, cuda"],
    [["--api-key", ""], "expected a value"],
    [["--threads", "two"], '"two"'],
    [["--no-such-flag"], "Unknown option --no-such-flag"],
    [["--kv-cache-dtypess", "fp8"], "Unknown option --kv-cache-dtypess"],
    [["-x"], "Unknown option -x"],
  ];
  for (const [args, part] of bad) {
    const error = assertThrows(() => parseCommandLine(args, noEnv), OptionError);
    assertStringIncludes(error.message, part);
  }
  const error = assertThrows(
    () => parseCommandLine([], (name) => name === "OCTAVO_PORT" ? "x" : undefined),
    OptionError,
  );
  assertStringIncludes(error.message, 'OCTAVO_PORT: expected an integer 0 to 65535, received "x"');
});

Deno.test("parseCommandLine() keeps positionals as they are written", () => {
  assertEquals(parseCommandLine(["serve", "007", "--port", "0"], noEnv).positionals, ["serve", "007"]);
});

Deno.test("parseMemory() reads bytes, units and fractions", () => {
  assertEquals(parseMemory("1000"), { bytes: 1000 });
  assertEquals(parseMemory("512MiB"), { bytes: 512 * 2 ** 20 });
  assertEquals(parseMemory("1.5GB"), { bytes: 1.5e9 });
  assertEquals(parseMemory("2g"), { bytes: 2e9 });
  assertEquals(parseMemory("0.5"), { fraction: 0.5 });
  assertEquals(parseMemory("1.0"), { fraction: 1 });
  for (const bad of ["", "0", "0.0", "-1", "1e9", "12XB", "NaN", "99999999TiB"]) {
    assertThrows(() => parseMemory(bad), RangeError);
  }
});

Deno.test("describeOptions() names every flag, default and variable", () => {
  const text = describeOptions();
  for (const option of Object.values(OPTIONS)) {
    assertStringIncludes(text, `--${option.flag} ${option.value}`);
    assertStringIncludes(text, `default: ${option.defaultText}; environment: ${variable(option)}`);
  }
});
