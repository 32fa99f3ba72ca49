import { assertEquals, assertRejects } from "@std/assert";
import { type CutReason, dataEvent, EventStream, type EventStreamOptions } from "../../routes/sse.ts";

function open(options: Partial<EventStreamOptions> = {}) {
  const cuts: CutReason[] = [];
  const stream = new EventStream({
    maxBufferedBytes: 1000,
    keepAliveMs: 60_000,
    onCut: (reason) => cuts.push(reason),
    ...options,
  });
  return { stream, cuts, reader: stream.body.getReader() };
}
const text = (chunk: ReadableStreamReadResult<Uint8Array>) => new TextDecoder().decode(chunk.value);

/** A turn of the event loop, after which everything that could be handed over has been. */
const turn = () => new Promise((resolve) => setTimeout(resolve, 0));

Deno.test("EventStream hands over all events of one turn as one piece", async () => {
  const { stream, reader } = open();
  stream.send("a");
  stream.send("b");
  await turn();
  stream.send("c");
  assertEquals(text(await reader.read()), "ab");
  assertEquals(text(await reader.read()), "c");
  stream.send("d");
  stream.close();
  assertEquals(text(await reader.read()), "d");
  assertEquals((await reader.read()).done, true);
});

Deno.test("EventStream tells when its reader is gone, once, and sends nothing more", async () => {
  const { stream, cuts, reader } = open();
  stream.send("a");
  await reader.read();
  await reader.cancel();
  stream.send("b");
  stream.close();
  await Promise.resolve();
  assertEquals(cuts, ["disconnected"]);
});

Deno.test("EventStream cuts a reader off when it leaves too much unread", async () => {
  const { stream, cuts, reader } = open({ maxBufferedBytes: 100 });
  stream.send("x".repeat(60));
  await turn();
  stream.send("x".repeat(40));
  assertEquals(cuts, []);
  stream.send("y");
  assertEquals(cuts, ["slow"]);
  stream.send("z");
  stream.close();
  await assertRejects(() => reader.read(), Error, "more than 100 bytes unread");
});

Deno.test("EventStream gathers what is sent while its last piece is unread", async () => {
  const { stream, reader } = open();
  stream.send("a");
  for (const events of ["b", "c", "é"]) {
    await turn();
    stream.send(events);
  }
  assertEquals(text(await reader.read()), "a");
  assertEquals(text(await reader.read()), "bcé");
  const waiting = reader.read();
  await turn();
  // Any size goes to a reader that waits.
  stream.send("x".repeat(5000));
  assertEquals(text(await waiting).length, 5000);
  stream.close();
});

Deno.test("EventStream lets a reader go on when it keeps up", async () => {
  const { stream, cuts, reader } = open({ maxBufferedBytes: 100 });
  for (let i = 0; i < 50; i++) {
    stream.send("x".repeat(90));
    assertEquals(text(await reader.read()).length, 90);
  }
  stream.close();
  assertEquals(cuts, []);
});

Deno.test("EventStream sends comments while it is silent, and none after its end", async () => {
  const { stream, reader } = open({ keepAliveMs: 1 });
  assertEquals(text(await reader.read()), ": keep-alive\n\n");
  stream.close();
  while (!(await reader.read()).done);
});

Deno.test("dataEvent() is one line of JSON, whatever the text", () => {
  assertEquals(dataEvent({ a: "x\n\ny" }), 'data: {"a":"x\\n\\ny"}\n\n');
});
