import { assertEquals, assertThrows } from "@std/assert";
import { OverloadedError } from "../../engine/errors.ts";
import { QueueLimit } from "../../engine/queue_limit.ts";

const tenant = (name: string, weight = 1) => ({ name, weight });

/** Enters until refused; how many got in, all of which wait. */
function fill(limit: QueueLimit, who: ReturnType<typeof tenant> | undefined, numWaiting = 0): number {
  for (let count = 0;; count++) {
    try {
      limit.enter(who, numWaiting + count);
    } catch (error) {
      if (error instanceof OverloadedError) return count;
      throw error;
    }
  }
}

Deno.test("QueueLimit.enter() lets as many wait as the limit says, and as many more as have left", () => {
  const limit = new QueueLimit(3);
  const leave = limit.enter(undefined, 0);
  assertEquals(fill(limit, undefined, 1), 2);
  assertThrows(() => limit.enter(undefined, 3), OverloadedError, "Too many requests wait: 3, the limit is 3");
  leave();
  assertEquals(fill(limit, undefined, 2), 1);
});

Deno.test("QueueLimit.enter() takes a tenant's share in when others have filled the queue", () => {
  const limit = new QueueLimit(12);
  assertEquals(fill(limit, tenant("flood")), 12);
  assertEquals(fill(limit, tenant("light"), 12), 6);
  assertEquals(fill(limit, tenant("double", 2), 18), 6);
  assertEquals(fill(limit, tenant("flood"), 24), 0);
  // Twice the limit is the end, whoever comes.
  assertEquals(fill(limit, tenant("new"), 24), 0);
});

Deno.test("QueueLimit.enter() counts a tenant's running requests too", () => {
  const limit = new QueueLimit(4);
  for (let i = 0; i < 10; i++) limit.enter(tenant("busy"), 0);
  assertEquals(fill(limit, tenant("other"), 4), 2);
  assertThrows(() => limit.enter(tenant("busy"), 4), OverloadedError);
});
