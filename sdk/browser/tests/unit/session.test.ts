import assert from "node:assert/strict";
import { test } from "node:test";
import { credentialFrom, credentialOf } from "../../src/session.js";

function jwt(claims: unknown): string {
  return `h.${Buffer.from(JSON.stringify(claims)).toString("base64url")}.s`;
}

test("the session is what the token says", () => {
  const accessToken = jwt({ sub: "ü-1", tenantId: "t-1", roles: ["Owner", 7], act: { sub: "admin" } });
  const before = Date.now();
  const { session, obtainedAt } = credentialOf({ accessToken, expiresIn: 900, tokenType: "Bearer" }, 42);
  assert.equal(obtainedAt, 42);
  assert.equal(session.userId, "ü-1");
  assert.equal(session.tenantId, "t-1");
  assert.deepEqual(session.roles, ["Owner"]);
  assert.equal(session.actorId, "admin");
  assert.ok(session.expiresAt >= before + 900_000 && session.expiresAt <= Date.now() + 900_000);
});

test("an answer without a token is refused, and its text is not told", () => {
  const token = jwt({ sub: "u" });
  for (const answer of [
    undefined,
    null,
    {},
    { accessToken: token, expiresIn: 900 },
    { accessToken: jwt({ sub: "u", tenantId: "t" }) },
  ]) {
    assert.throws(
      () => credentialOf(answer, 1),
      (error: Error) => {
        assert.match(error.message, /holds no access token/);
        assert.ok(!error.message.includes(token));
        return true;
      },
    );
  }
});

test("what another tab tells is read with the same care", () => {
  const token = jwt({ sub: "u", tenantId: "t" });
  assert.equal(credentialFrom(token, 1, 2)?.session.expiresAt, 2);
  for (const [accessToken, obtainedAt, expiresAt] of [
    [token, Number.NaN, 2],
    [token, 1, "2"],
    [7, 1, 2],
    ["a.%%%.c", 1, 2],
    ["", 1, 2],
  ])
    assert.equal(credentialFrom(accessToken, obtainedAt, expiresAt), undefined);
});
