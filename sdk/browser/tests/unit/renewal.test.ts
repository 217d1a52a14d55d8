import assert from "node:assert/strict";
import { mock, test } from "node:test";
import { leaseAmong } from "../../src/lease.js";
import { Memory } from "../../src/memory.js";
import { problem } from "../../src/problem.js";
import { Renewal } from "../../src/renewal.js";
import type { Credential } from "../../src/session.js";
import { Tabs } from "../../src/tabs.js";
import type { TakeTurn } from "../../src/turn.js";

function credential(accessToken: string, obtainedAt: number): Credential {
  const session = { userId: "u", tenantId: "t", roles: [], actorId: undefined, expiresAt: obtainedAt + 900_000 };
  return { accessToken, obtainedAt, session };
}

/** Another tab has the turn and never ends it. */
const never: TakeTurn = (signal) =>
  new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));

function renewal(takeTurn: TakeTurn, refresh: (memory: Memory) => Promise<Credential>) {
  const memory = new Memory();
  memory.keep(credential("old", 1_000));
  let refreshes = 0;
  const count = () => {
    refreshes += 1;
    return refresh(memory);
  };
  const tell = { token: (one: Credential) => memory.keep(one), signedOut: (at: number) => memory.drop(at) };
  return { memory, renewal: new Renewal(memory, takeTurn, count, tell), refreshes: () => refreshes };
}

test("a tab that keeps the turn for ever is not waited for longer than 9 s", async () => {
  mock.timers.enable({ apis: ["setTimeout"] });
  try {
    const it = renewal(never, async (memory) => credential("new", memory.stamp()));
    const done = it.renewal.renew("old");
    await Promise.resolve();
    await Promise.resolve();
    mock.timers.tick(8_999);
    await new Promise((resolve) => setImmediate(resolve));
    assert.equal(it.refreshes(), 0);
    mock.timers.tick(1);
    await done;
    assert.equal(it.refreshes(), 1);
    assert.equal(it.memory.credential?.accessToken, "new");
  } finally {
    mock.timers.reset();
  }
});

test("waiting ends the moment another tab tells its token, or the end of the session", async () => {
  for (const word of [
    (memory: Memory) => memory.keep(credential("theirs", 2_000)),
    (memory: Memory) => memory.drop(2_000),
  ]) {
    const it = renewal(never, () => Promise.reject(new Error("not wanted")));
    const done = it.renewal.renew("old");
    await new Promise((resolve) => setImmediate(resolve));
    word(it.memory);
    await done;
    assert.equal(it.refreshes(), 0);
  }
});

test("a logout while the answer is under way is not undone by the answer", async () => {
  const it = renewal(
    async () => () => {},
    async (memory) => {
      memory.drop(Number.MAX_SAFE_INTEGER);
      return credential("late", memory.stamp() + 1_000);
    },
  );
  await it.renewal.renew("old");
  assert.equal(it.memory.state, "out");
});

test("only a 401 ends the session", async () => {
  for (const status of [0, 403, 429, 500, 503]) {
    const it = renewal(
      async () => () => {},
      () => Promise.reject(problem(status, "some", "some problem")),
    );
    await assert.rejects(it.renewal.renew("old"), { status });
    assert.equal(it.memory.credential?.accessToken, "old");
  }
  const it = renewal(
    async () => () => {},
    () => Promise.reject(problem(401, "token-revoked", "used before")),
  );
  await it.renewal.renew("old");
  assert.equal(it.memory.state, "out");
});

test("a failure gives the turn to the next at once", async () => {
  mock.timers.enable({ apis: ["setTimeout"] });
  try {
    let released = 0;
    const it = renewal(
      async () => () => {
        released += 1;
      },
      () => Promise.reject(problem(503, "service-unavailable", "down")),
    );
    await assert.rejects(it.renewal.renew("old"));
    mock.timers.tick(1);
    assert.equal(released, 1);
  } finally {
    mock.timers.reset();
  }
});

test("a tab that asks just after a refresh, before it has heard the token, waits for it", async () => {
  const channels = [Tabs.open("renewal-test"), Tabs.open("renewal-test")] as [Tabs, Tabs];
  try {
    const first = renewal(leaseAmong(channels[0]), async (memory) => credential("new", memory.stamp()));
    const second = renewal(leaseAmong(channels[1]), async (memory) => credential("again", memory.stamp()));
    await first.renewal.renew("old");
    const told = first.memory.credential;
    assert.ok(told);
    const done = second.renewal.renew("old");
    setTimeout(() => second.memory.keep(told), 250);
    await done;
    assert.equal(second.refreshes(), 0);
    assert.equal(second.memory.credential?.accessToken, "new");
  } finally {
    for (const channel of channels) channel.close();
  }
});
