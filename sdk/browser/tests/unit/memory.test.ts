import assert from "node:assert/strict";
import { test } from "node:test";
import { Memory } from "../../src/memory.js";
import type { Credential } from "../../src/session.js";

function credential(accessToken: string, obtainedAt: number): Credential {
  const session = { userId: "u", tenantId: "t", roles: [], actorId: undefined, expiresAt: obtainedAt + 900_000 };
  return { accessToken, obtainedAt, session };
}

test("the newest token wins, whatever order they arrive in", () => {
  const memory = new Memory();
  memory.keep(credential("second", 2_000));
  memory.keep(credential("first", 1_000));
  assert.equal(memory.credential?.accessToken, "second");
});

test("a late word of an old sign-out does not end a newer login", () => {
  const memory = new Memory();
  memory.keep(credential("old", 1_000));
  memory.drop(1_500);
  assert.equal(memory.state, "out");
  memory.keep(credential("new", 2_000));
  memory.drop(1_500);
  assert.equal(memory.credential?.accessToken, "new");
});

test("a token from before the sign-out does not sign in again", () => {
  const memory = new Memory();
  memory.drop(1_500);
  memory.keep(credential("late", 1_400));
  assert.equal(memory.state, "out");
});

test("a logout ends every token held, and the next login holds", () => {
  const memory = new Memory();
  memory.keep(credential("held", Date.now() + 5_000));
  memory.drop(Number.MAX_SAFE_INTEGER);
  assert.equal(memory.state, "out");
  memory.keep(credential("next", memory.stamp()));
  assert.equal(memory.credential?.accessToken, "next");
});

test("a clock that was set back does not keep the old token", () => {
  const memory = new Memory();
  memory.keep(credential("from the future", Date.now() + 3_600_000));
  memory.keep(credential("now", memory.stamp()));
  assert.equal(memory.credential?.accessToken, "now");
});

test("the end of the session is told once", () => {
  const memory = new Memory();
  let told = 0;
  const stop = memory.onSignedOut(() => told++);
  memory.keep(credential("a", 1_000));
  memory.drop(1_000);
  memory.drop(2_000);
  assert.equal(told, 1);
  stop();
  memory.keep(credential("b", 3_000));
  memory.drop(3_000);
  assert.equal(told, 1);
});
