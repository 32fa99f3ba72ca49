import { assertEquals } from "@std/assert";
import { LiveRequest, type Sequence } from "../../engine/sequence.ts";
import { WaitingQueue } from "../../engine/waiting_queue.ts";
import { greedy } from "./_fake_model.ts";

let nextKey = 0;

/** A sequence named by its tenant; later ones are younger. */
function sequence(tenant: string, { weight = 1, priority = 0 } = {}): Sequence {
  const request = new LiveRequest(nextKey++, tenant, Int32Array.of(1), greedy(), priority, "", {
    name: tenant,
    weight,
  });
  return request.sequences[0]!;
}

/** Admits the next sequence and charges it. */
function admit(queue: WaitingQueue, cost = 1): Sequence {
  const next = queue.next()!;
  queue.admit(next);
  next.state = "running";
  next.numAdmissions++;
  queue.charge(next.request, cost);
  return next;
}

function preempt(queue: WaitingQueue, sequence: Sequence): void {
  sequence.state = "waiting";
  queue.addPreempted(sequence);
}

Deno.test("WaitingQueue.next() goes by priority, then arrival, for one tenant", () => {
  const queue = new WaitingQueue(({ request }) => request.leader === null);
  const added = [0, 2, -1, 0].map((priority) => sequence("a", { priority }));
  for (const one of added) queue.add(one);
  assertEquals([1, 2, 3, 4].map(() => added.indexOf(admit(queue))), [2, 0, 3, 1]);
  assertEquals([queue.next(), queue.length], [null, 0]);
});

Deno.test("WaitingQueue gives each tenant its weight's share while all of them wait", () => {
  const queue = new WaitingQueue(({ request }) => request.leader === null);
  const weights = { a: 1, b: 2, c: 5 };
  for (const [name, weight] of Object.entries(weights)) {
    for (let i = 0; i < 800; i++) queue.add(sequence(name, { weight }));
  }
  const served: Record<string, number> = { a: 0, b: 0, c: 0 };
  // Requests of 5 to 14 tokens.
  for (let i = 0; i < 800; i++) {
    const cost = 5 + i * 7 % 10;
    served[admit(queue, cost).request.id]! += cost;
  }
  const total = served["a"]! + served["b"]! + served["c"]!;
  for (const [name, weight] of Object.entries(weights)) {
    // One admission in sixteen goes by arrival, here to a, which pays for it.
    assertEquals(Math.abs(served[name]! / total - weight / 8) < 0.01, true, `${name}: ${served[name]! / total}`);
  }
});

Deno.test("WaitingQueue lets no tenant save up while it asks for nothing, and lets it pay what it owes", () => {
  const queue = new WaitingQueue(({ request }) => request.leader === null);
  const [owner] = [sequence("owner"), sequence("idle")].map((one) => (queue.add(one), one));
  admit(queue, 0);
  admit(queue, 0);
  for (let i = 0; i < 20; i++) queue.add(sequence("busy"));
  for (let i = 0; i < 10; i++) admit(queue, 100);
  // Its request that still runs goes on costing.
  queue.charge(owner!.request, 2000);
  for (let i = 0; i < 6; i++) {
    queue.add(sequence("idle"));
    queue.add(sequence("owner"));
  }
  const order = Array.from({ length: 8 }, () => admit(queue, 100).request.id);
  assertEquals(order.includes("owner"), false);
  assertEquals(order.filter((name) => name === "idle").length, 4);
});

Deno.test("WaitingQueue.next() takes the preempted before newcomers of their priority, not before better ones", () => {
  const queue = new WaitingQueue(({ request }) => request.leader === null);
  for (let i = 0; i < 3; i++) queue.add(sequence("a"));
  const [first, second] = [admit(queue, 1000), admit(queue, 1000)];
  queue.add(sequence("b"));
  preempt(queue, second);
  preempt(queue, first);
  queue.add(sequence("c", { priority: -1 }));
  assertEquals(queue.length, 5);
  assertEquals(admit(queue).request.id, "c");
  assertEquals([admit(queue), admit(queue)], [first, second]);
});

Deno.test("WaitingQueue admits the oldest once in sixteen, whatever its priority, and keeps it from being preempted", () => {
  const queue = new WaitingQueue(({ request }) => request.leader === null);
  const old = sequence("low", { priority: 1000 });
  queue.add(old);
  for (let i = 0; i < 100; i++) queue.add(sequence("high"));
  const order = Array.from({ length: 16 }, () => admit(queue).request.id);
  assertEquals(order.indexOf("low"), 15);
  assertEquals(old.priority, 0);
});

Deno.test("WaitingQueue.next() passes over those that wait for a sister", () => {
  const queue = new WaitingQueue(({ request }) => request.leader === null);
  const [a, b] = [sequence("a"), sequence("b")];
  queue.add(a);
  queue.add(b);
  a.request.leader = a;
  for (let i = 0; i < 20; i++) queue.add(sequence("b"));
  for (let i = 0; i < 21; i++) assertEquals(admit(queue).request.id, "b");
  assertEquals([queue.next(), queue.length], [null, 1]);
  a.request.leader = null;
  assertEquals(admit(queue), a);
});

Deno.test("WaitingQueue.remove() takes sequences out of any place", () => {
  const queue = new WaitingQueue(({ request }) => request.leader === null);
  const added = Array.from({ length: 200 }, (_, i) => sequence(`${i % 7}`, { priority: i % 3 }));
  for (const one of added) queue.add(one);
  const ran = Array.from({ length: 50 }, () => admit(queue));
  for (const one of ran) preempt(queue, one);
  assertEquals([...queue].length, 200);
  for (const [i, one] of added.entries()) {
    if (i % 4 === 0) continue;
    queue.remove(one);
    one.state = "finished";
    queue.leave(one);
  }
  const left = added.filter((_, i) => i % 4 === 0);
  assertEquals([queue.length, new Set(queue)], [50, new Set(left)]);
  for (let i = 0; i < 50; i++) admit(queue);
  assertEquals(queue.next(), null);
});
