import assert from "node:assert/strict";
import { mock, test } from "node:test";
import { EMAIL, PASSWORD, TENANTS } from "../double.js";
import { eachWithAServer, failure, pause, server, signedIn, tab, until } from "./world.js";

eachWithAServer();

test("log in, ask, log out", async () => {
  const kernel = tab();
  const events: string[] = [];
  kernel.onToken(({ tenantId }) => events.push(`token ${tenantId}`));
  kernel.onSignedOut(() => events.push("signed out"));
  assert.equal(kernel.session, undefined);

  const login = await kernel.login({ email: EMAIL, password: PASSWORD });
  assert.ok(login.signedIn);
  assert.equal(login.session.tenantId, TENANTS[0]);
  assert.deepEqual(kernel.session, login.session);
  assert.deepEqual((await kernel.me()).permissions, ["*"]);
  assert.equal((await kernel.post<{ body: string }>("/things", { a: 1 })).body, '{"a":1}');

  await kernel.logout();
  assert.equal(kernel.session, undefined);
  assert.equal((await failure(kernel.me())).status, 401);
  assert.equal(server.refreshes.length, 0, "a tab that knows it is signed out asks for no token");
  assert.deepEqual(events, [`token ${TENANTS[0]}`, "signed out"]);
});

test("wrong credentials are an error and sign nobody out", async () => {
  const kernel = await signedIn();
  const error = await failure(kernel.login({ email: EMAIL, password: "wrong" }));
  assert.deepEqual([error.status, error.slug], [401, "invalid-credentials"]);
  assert.ok(kernel.session);
});

test("of several tenants one is chosen", async () => {
  const kernel = tab();
  const login = await kernel.login({ email: "many@acme.example", password: PASSWORD });
  assert.ok(!login.signedIn);
  assert.deepEqual(
    login.tenants.map(({ id }) => id),
    [...TENANTS],
  );
  assert.equal(kernel.session, undefined);
  const session = await kernel.selectTenant({ sessionToken: login.sessionToken, tenantId: TENANTS[1] });
  assert.equal(session.tenantId, TENANTS[1]);
  assert.ok(await kernel.me());
});

test("registering signs in", async () => {
  const kernel = tab();
  const tenant = { name: "acme", displayName: "Acme Inc" };
  const session = await kernel.register({ email: EMAIL, password: PASSWORD, displayName: "Ada", tenant });
  assert.deepEqual(kernel.session, session);
  assert.ok(await kernel.me());
});

test("a visitor who is not signed in is told so once, and public routes answer", async () => {
  const kernel = tab();
  let told = 0;
  kernel.onSignedOut(() => told++);
  assert.deepEqual(await kernel.get("/public"), { authorization: null });
  assert.equal((await failure(kernel.me())).slug, "token-expired");
  assert.equal(told, 1);
  assert.equal(server.refreshes.length, 1);
});

test("a logout where there is no session is none the worse", async () => {
  const kernel = tab();
  let told = 0;
  kernel.onSignedOut(() => told++);
  await kernel.logout();
  assert.equal(told, 1);
  assert.equal(server.refreshes.length, 0);
});

test("a token that expired is replaced before it is sent", async () => {
  const kernel = await signedIn();
  mock.timers.enable({ apis: ["Date"], now: Date.now() + 901_000 });
  try {
    assert.ok(await kernel.get("/things"));
    assert.equal(server.arrived("/things"), 1);
    assert.equal(server.refreshes.length, 1);
  } finally {
    mock.timers.reset();
  }
});

test("every request has an id, kept when it is sent again", async () => {
  const kernel = await signedIn();
  server.requestIds.length = 0;
  server.refuseTokens();
  await kernel.get("/things");
  const [request, refresh, repeated] = server.requestIds;
  assert.match(request ?? "", /^[0-9a-f-]{36}$/);
  assert.match(refresh ?? "", /^[0-9a-f-]{36}$/);
  assert.equal(repeated, request);
  assert.notEqual(refresh, request);
  await kernel.get("/things", { headers: { "X-Request-ID": "mine" } });
  assert.equal(server.requestIds.at(-1), "mine");
});

test("a caller who leaves does not wait for the refresh", async () => {
  const kernel = await signedIn();
  server.refuseTokens();
  server.hold = (path) => (path === "/auth/refresh" ? pause(2_000) : undefined);
  const reason = new Error("left");
  const controller = new AbortController();
  const asked = kernel.get("/things", { signal: controller.signal });
  await until(() => server.refreshes.length === 1);
  controller.abort(reason);
  const begun = Date.now();
  await assert.rejects(asked, reason);
  assert.ok(Date.now() - begun < 1_000);
});

test("a body that can be read once is not sent twice", async () => {
  const kernel = await signedIn();
  server.refuseTokens();
  const body = new Blob(["x"]).stream();
  const init = { method: "POST", body, duplex: "half" } as RequestInit;
  assert.equal((await failure(kernel.fetch("/things", init))).status, 401);
  assert.ok(kernel.session);
});
