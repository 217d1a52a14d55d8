import assert from "node:assert/strict";
import { afterEach, test } from "node:test";
import { leaseAmong } from "../../src/lease.js";
import { Tabs } from "../../src/tabs.js";

const open: Tabs[] = [];

function tab(): Tabs {
  const tabs = Tabs.open("lease-test");
  assert.ok(tabs);
  open.push(tabs);
  return tabs;
}

afterEach(() => {
  for (const tabs of open.splice(0)) tabs.close();
});

test("of many tabs that ask at once, one at a time has the turn, and each gets it", async () => {
  const forever = new AbortController().signal;
  let holders = 0;
  let turns = 0;
  await Promise.all(
    Array.from({ length: 6 }, async () => {
      const release = await leaseAmong(tab())(forever);
      holders += 1;
      assert.equal(holders, 1);
      await new Promise((resolve) => setTimeout(resolve, 20));
      holders -= 1;
      turns += 1;
      release();
    }),
  );
  assert.equal(turns, 6);
});

test("a tab that is gone holds nobody up", async () => {
  const gone = tab();
  await leaseAmong(gone)(new AbortController().signal);
  const waiting = leaseAmong(tab())(AbortSignal.timeout(5_000));
  let granted = false;
  void waiting.then(() => {
    granted = true;
  });
  await new Promise((resolve) => setTimeout(resolve, 400));
  assert.equal(granted, false, "the holder lives");
  gone.close();
  await waiting;
});

test("waiting ends when it is aborted", async () => {
  await leaseAmong(tab())(new AbortController().signal);
  const reason = new Error("enough");
  const controller = new AbortController();
  const waiting = leaseAmong(tab())(controller.signal);
  controller.abort(reason);
  await assert.rejects(waiting, reason);
});
