import { assert, assertEquals, assertFalse, assertMatch } from "@std/assert";
import { eTag, ifMatch, ifNoneMatch } from "@std/http/etag";
import { accepts, acceptsEncodings, acceptsLanguages } from "@std/http/negotiation";
import { isClientErrorStatus, isErrorStatus, isServerErrorStatus, isStatus, STATUS_CODE, STATUS_TEXT } from "@std/http";

Deno.test("STATUS_TEXT has the text of each status code", () => {
  assertEquals(STATUS_TEXT[STATUS_CODE.NotFound], "Not Found");
  assertEquals(STATUS_TEXT[STATUS_CODE.OK], "OK");
  for (const code of Object.values(STATUS_CODE)) assertMatch(STATUS_TEXT[code], /^[A-Z]/);
});

Deno.test("status guards tell the classes apart", () => {
  assert(isClientErrorStatus(404) && isErrorStatus(404) && !isServerErrorStatus(404));
  assert(isServerErrorStatus(503) && isErrorStatus(503) && !isClientErrorStatus(503));
  assertFalse(isStatus(499));
  assertFalse(isErrorStatus(200));
});

Deno.test("eTag() is length and hash of the entity", async () => {
  // SHA-256 of no bytes is e3b0c442..., in base64 47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=.
  assertEquals(await eTag(""), '"0-47DEQpj8HBSa+/TImW+5JCeuQeR"');
  assertEquals(await eTag(new Uint8Array()), '"0-47DEQpj8HBSa+/TImW+5JCeuQeR"');
  assertMatch(await eTag("text", { weak: true }), /^W\/"4-.{27}"$/);
  assertMatch(await eTag({ size: 1024, mtime: new Date(0) }) ?? "", /^W\/"400-.{27}"$/);
  assertEquals(await eTag({ size: 1024, mtime: null }), undefined);
});

Deno.test("ifNoneMatch() compares weakly, ifMatch() strongly", () => {
  assert(ifNoneMatch(null, '"a"'));
  assert(ifNoneMatch('"b", W/"c"', '"a"'));
  assertFalse(ifNoneMatch('"b", W/"a"', '"a"'));
  assertFalse(ifNoneMatch("*", '"a"'));
  assert(ifMatch('"b", "a"', '"a"'));
  assertFalse(ifMatch('W/"a"', '"a"'));
  assertFalse(ifMatch("*", 'W/"a"'));
});

function request(headers: Record<string, string>): Request {
  return new Request("http://host/", { headers });
}

const CHOICES: [string, string[], string | undefined][] = [
  ["text/html, application/json;q=0.9", ["application/json", "text/html"], "text/html"],
  ["*/*", ["application/json", "text/html"], "application/json"],
  ["text/*;q=0.5, text/plain;q=0.1", ["text/plain", "text/html"], "text/html"],
  ["text/html", ["application/json"], undefined],
  ["application/json;q=0, */*", ["application/json", "text/plain"], "text/plain"],
];
for (const [header, types, chosen] of CHOICES) {
  Deno.test(`accepts() chooses ${chosen} of ${types} for ${header}`, () => {
    assertEquals(accepts(request({ accept: header }), ...types), chosen);
  });
}

Deno.test("accepts() lists all types by preference when given none", () => {
  assertEquals(accepts(request({ accept: "a/b;q=0.2, c/d, e/f;q=0" })), ["c/d", "a/b"]);
  assertEquals(accepts(request({})), ["*/*"]);
});

Deno.test("acceptsEncodings() falls back to identity unless it is excluded", () => {
  assertEquals(acceptsEncodings(request({ "accept-encoding": "gzip, br" }), "br", "identity"), "br");
  assertEquals(acceptsEncodings(request({ "accept-encoding": "gzip" }), "br", "identity"), "identity");
  assertEquals(acceptsEncodings(request({ "accept-encoding": "gzip, identity;q=0" }), "identity"), undefined);
  assertEquals(acceptsEncodings(request({ "accept-encoding": "gzip, *;q=0" }), "identity"), undefined);
});

Deno.test("acceptsLanguages() matches a language by its start", () => {
  assertEquals(acceptsLanguages(request({ "accept-language": "de, en;q=0.5" }), "en-GB", "de-AT"), "de-AT");
});
